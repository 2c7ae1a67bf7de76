//! How many tokens the slots of a batch may hold: what fits a part of the free memory, and no more than keeps the cores busy.

use crate::model::Model;

/// Beyond this a batch gets no faster, and progress comes in larger jumps.
const MOST: usize = 8192;
/// The part of the free memory that is taken: the system's page cache holds the weights, and other processes want some.
const SHARE: u64 = 4;
/// What is taken to be free where the system does not say.
const FREE: u64 = 4 << 30;

/// The budget for a model. A question that needs more runs alone.
///
/// A token costs its keys and values in f32, layers · 2 · kv_heads · head_dim · 4 bytes, and while it is run its
/// activations: about eight vectors of the hidden size, and the two halves of the feed-forward layer, taken as 4·hidden each.
pub fn budget(model: &Model) -> usize {
    let kept = model.state_values() * 4;
    let run = (8 + 2 * 4) * model.hidden * 4;
    let free =
        std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| available(&text)).unwrap_or(FREE);
    let tokens = usize::try_from(free / SHARE).unwrap_or(usize::MAX) / (kept + run).max(1);
    tokens.clamp(1, MOST)
}

/// `MemAvailable` of /proc/meminfo, in bytes.
fn available(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_says_what_is_free() {
        let text = "MemTotal:       24625420 kB\nMemFree:         500000 kB\nMemAvailable:   19437036 kB\n";
        assert_eq!(available(text), Some(19_437_036 * 1024));
        assert_eq!(available("MemFree: 1 kB"), None);
        assert_eq!(available("MemAvailable: lots"), None);
    }
}
