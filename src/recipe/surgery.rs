//! `[[surgery]]`: what stays of a model that is made smaller, as plain data. Pruning methods that change shapes measure it; the
//! output's metadata hold it, so that `verify` can cut the input in the same way.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::{Error, Result};

/// One cut of a model: what stays, in the numbers of the model before it. What is not named stays whole.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Surgery {
    /// The method that chose it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub method: String,
    /// The layers that stay.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layers: Option<Kept>,
    /// The columns of the residual stream that stay.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hidden: Option<Kept>,
    /// The tokens that stay.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vocabulary: Option<Kept>,
    /// blake3 of the weights that a calibration set has corrected for the cut; `None` where weights keep their values.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub corrected: Option<String>,
    /// The key/value heads that stay, with the query heads that read them, for each layer.
    #[serde(deserialize_with = "bounded", skip_serializing_if = "Vec::is_empty")]
    pub kv_heads: Vec<Kept>,
    /// The channels of the feed-forward network that stay, for each layer.
    #[serde(deserialize_with = "bounded", skip_serializing_if = "Vec::is_empty")]
    pub channels: Vec<Kept>,
    /// The channels that stay of each expert, for each layer; of a layer without experts, none.
    #[serde(deserialize_with = "bounded_each", skip_serializing_if = "Vec::is_empty")]
    pub expert_channels: Vec<Vec<Kept>>,
    /// The experts that stay, for each layer; of a layer without experts, none.
    #[serde(deserialize_with = "bounded", skip_serializing_if = "Vec::is_empty")]
    pub experts: Vec<Kept>,
}

/// The number of things that stay in each layer, or in each expert, that has any.
pub(crate) fn of_each<'a>(kept: impl IntoIterator<Item = &'a Kept>) -> Option<usize> {
    kept.into_iter().map(|kept| kept.numbers().len()).max().filter(|count| *count > 0)
}

/// Numbers in ascending order, each once; in text `0-19,26,28-29`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Kept(Vec<u32>);

/// The largest number: beyond the rows of any matrix.
const LARGEST: u32 = 1 << 20;
/// The most numbers of all layers.
const MOST: usize = 1 << 24;

impl Kept {
    /// Puts numbers in order.
    pub fn new(numbers: impl IntoIterator<Item = u32>) -> Kept {
        let mut numbers: Vec<u32> = numbers.into_iter().collect();
        numbers.sort_unstable();
        numbers.dedup();
        Kept(numbers)
    }

    /// The numbers.
    pub fn numbers(&self) -> &[u32] {
        &self.0
    }

    /// The place of a number among those that stay.
    pub(crate) fn place(&self, number: u32) -> Option<usize> {
        self.0.binary_search(&number).ok()
    }

    /// The numbers of `0..count` that do not stay.
    pub(crate) fn others(&self, count: usize) -> Kept {
        Kept((0..count as u32).filter(|number| self.place(*number).is_none()).collect())
    }

    /// Refuses numbers that are not below `count`, and an empty list. `what` they number, for errors.
    ///
    /// # Errors
    /// [`Error::Usage`].
    pub(crate) fn check(&self, what: &str, count: usize) -> Result<()> {
        match self.0.last() {
            Some(last) if (*last as usize) < count => Ok(()),
            Some(last) => {
                let found = format!("surgery: {what} {last}, of a model that has {count}");
                Err(Error::usage(found, format!("they are numbered from 0 to {}", count.saturating_sub(1))))
            }
            None => Err(Error::usage(format!("surgery: no {what} stay"), "name at least one")),
        }
    }

    fn runs(&self) -> Vec<RangeInclusive<u32>> {
        let mut runs: Vec<RangeInclusive<u32>> = Vec::new();
        for &number in &self.0 {
            match runs.last_mut() {
                Some(run) if *run.end() + 1 == number => *run = *run.start()..=number,
                _ => runs.push(number..=number),
            }
        }
        runs
    }
}

impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        for (index, run) in self.runs().into_iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            match run.start() == run.end() {
                true => write!(f, "{comma}{}", run.start())?,
                false => write!(f, "{comma}{}-{}", run.start(), run.end())?,
            }
        }
        Ok(())
    }
}

impl FromStr for Kept {
    type Err = String;

    fn from_str(text: &str) -> Result<Kept, String> {
        let mut numbers = Vec::new();
        for run in text.split(',').map(str::trim).filter(|run| !run.is_empty()) {
            let (first, last) = run.split_once('-').unwrap_or((run, run));
            let number = |text: &str| text.trim().parse::<u32>().ok().filter(|number| *number < LARGEST);
            match (number(first), number(last)) {
                (Some(first), Some(last)) if first <= last && numbers.last().is_none_or(|n| *n < first) => {
                    numbers.extend(first..=last);
                }
                _ => return Err(format!("{run:?}: expected ascending numbers, such as 0-19,26,28-29")),
            }
        }
        Ok(Kept(numbers))
    }
}

impl Serialize for Kept {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Kept {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Kept, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A list for all layers. A short text can name more numbers than fit in memory.
fn bounded<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Kept>, D::Error> {
    let texts = Vec::<String>::deserialize(deserializer)?;
    parsed(&texts, &mut 0).map_err(serde::de::Error::custom)
}

/// A list for all layers of lists for all experts.
fn bounded_each<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Vec<Kept>>, D::Error> {
    let (mut count, layers) = (0, Vec::<Vec<String>>::deserialize(deserializer)?);
    let layers = layers.iter().map(|texts| parsed(texts, &mut count));
    layers.collect::<Result<_, _>>().map_err(serde::de::Error::custom)
}

/// Parses texts. `count` adds up their numbers.
fn parsed(texts: &[String], count: &mut usize) -> Result<Vec<Kept>, String> {
    let parse = |text: &String| {
        let kept: Kept = text.parse()?;
        *count += kept.0.len();
        if *count <= MOST { Ok(kept) } else { Err(format!("more than {MOST} numbers")) }
    };
    texts.iter().map(parse).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_short_text_cannot_take_all_memory() {
        let texts = "\"0-1048575\",".repeat(10);
        for text in
            [format!("channels = [{texts}{texts}]"), format!("expert_channels = [[{texts}], [{texts}]]")]
        {
            assert!(toml::from_str::<Surgery>(&text).unwrap_err().to_string().contains("more than"));
        }
    }

    #[test]
    fn numbers_as_text() {
        let check = |numbers: &[u32], text: &str| {
            let kept = Kept::new(numbers.iter().copied());
            assert_eq!(kept.to_string(), text);
            assert_eq!(text.parse::<Kept>().unwrap(), kept);
        };
        check(&[], "");
        check(&[7], "7");
        check(&[0, 1, 2, 5, 7, 8], "0-2,5,7-8");
        assert_eq!(Kept::new([3, 1, 3]), "1,3".parse().unwrap());
        for wrong in ["a", "3-1", "1,1", "2,1", "-1", "1-", "99999999999", "0-99999999"] {
            assert!(wrong.parse::<Kept>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn numbers_beyond_the_model_are_refused() {
        let kept: Kept = "0-3".parse().unwrap();
        assert!(kept.check("layers", 4).is_ok());
        assert!(kept.check("layers", 3).unwrap_err().to_string().contains("layers 3"));
        assert!(Kept::default().check("layers", 3).is_err());
        assert_eq!(kept.others(6).numbers(), [4, 5]);
    }
}
