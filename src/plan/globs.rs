//! `--include` and `--exclude`: globs over tensor names. A glob that matches nothing is an error: it is a typo.

use std::sync::atomic::{AtomicBool, Ordering};

use globset::{Glob, GlobMatcher};

use crate::error::{Error, Result};
use crate::numerics::Sparsity;
use crate::recipe::Recipe;

struct Pattern {
    matcher: GlobMatcher,
    flag: &'static str,
    matched: AtomicBool,
}

impl Pattern {
    fn new(flag: &'static str, text: &str) -> Result<Pattern> {
        let glob = Glob::new(text).map_err(|e| {
            Error::usage(format!("{flag} {text:?}: {e}"), "`*` matches any characters, `?` one")
        })?;
        Ok(Pattern { matcher: glob.compile_matcher(), flag, matched: AtomicBool::new(false) })
    }

    /// A glob may name the tensor or its module.
    fn matches(&self, names: &[&str]) -> bool {
        let found = names.iter().any(|name| {
            self.matcher.is_match(name)
                || name.strip_suffix(".weight").is_some_and(|m| self.matcher.is_match(m))
        });
        self.matched.fetch_or(found, Ordering::Relaxed);
        found
    }
}

/// The recipe's globs, compiled.
pub(crate) struct Globs {
    include: Vec<Pattern>,
    exclude: Vec<Pattern>,
    overrides: Vec<Pattern>,
}

impl Globs {
    /// Compiles them.
    pub(crate) fn new(recipe: &Recipe) -> Result<Globs> {
        let compile = |flag: &'static str, texts: &[String]| -> Result<Vec<Pattern>> {
            texts.iter().map(|text| Pattern::new(flag, text)).collect()
        };
        Ok(Globs {
            include: compile("--include", &recipe.include)?,
            exclude: compile("--exclude", &recipe.exclude)?,
            overrides: recipe
                .overrides
                .iter()
                .map(|o| Pattern::new("override", &o.pattern))
                .collect::<Result<_>>()?,
        })
    }

    /// Returns true if an exclude glob matches one of a tensor's names.
    pub(crate) fn excluded(&self, names: &[&str]) -> bool {
        self.exclude.iter().fold(false, |any, pattern| pattern.matches(names) | any)
    }

    /// Returns true if an include glob matches one of a tensor's names.
    pub(crate) fn included(&self, names: &[&str]) -> bool {
        self.include.iter().fold(false, |any, pattern| pattern.matches(names) | any)
    }

    /// The first override that matches one of a tensor's names.
    pub(crate) fn overridden(&self, names: &[&str]) -> Option<usize> {
        let matching = self.overrides.iter().enumerate().filter(|(_, pattern)| pattern.matches(names));
        matching.map(|(index, _)| index).min()
    }

    /// The zeros of the first override that matches one of a tensor's names and sets zeros. `zeros` are those of the overrides.
    pub(crate) fn zeros(&self, names: &[&str], zeros: &[Option<Sparsity>]) -> Option<Sparsity> {
        let matching = self.overrides.iter().zip(zeros).filter(|(pattern, _)| pattern.matches(names));
        matching.fold(None, |first, (_, zeros)| first.or(*zeros))
    }

    /// Checks that every glob matched some tensor.
    pub(crate) fn all_matched(&self) -> Result<()> {
        let idle = self
            .include
            .iter()
            .chain(&self.exclude)
            .chain(&self.overrides)
            .find(|p| !p.matched.load(Ordering::Relaxed));
        match idle {
            None => Ok(()),
            Some(pattern) => Err(Error::usage(
                format!("{} {:?} matches no tensor", pattern.flag, pattern.matcher.glob().glob()),
                "`llmc inspect` lists the names",
            )),
        }
    }
}
