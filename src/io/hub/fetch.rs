//! Models fetched into the local cache.

use std::path::{Path, PathBuf};

use hf_hub::api::RepoInfo;
use hf_hub::{Cache, Repo, RepoType};

use super::choice;
use super::client::Hub;
use super::download;
use super::failure::Failure;
use super::id::Id;
use crate::error::{Error, Result};
use crate::io::index::{self, INDEX_FILE, is_plain_name};
use crate::io::{side_files, weight_files};

impl Hub {
    /// The local folder of a model, or the one weight file that the id names: from the cache where it is complete there,
    /// downloaded otherwise.
    ///
    /// # Errors
    /// Offline and not cached; no such model or revision; a token that is missing or not enough; a hub that cannot be
    /// reached, or that falls silent.
    pub fn fetch(&self, id: &Id) -> Result<PathBuf> {
        let cached = self.cached(id);
        match cached {
            Some(found) if self.offline || is_commit(&id.revision) => return Ok(found),
            None if self.offline => return Err(self.not_cached(id)),
            _ => {}
        }
        match self.info(id) {
            Ok(info) => self.snapshot(id, &info),
            Err(failure) => match (failure.is_unreachable(), cached) {
                (true, Some(found)) => {
                    tracing::warn!(
                        "{}: {failure}; going on with the cached {}",
                        self.endpoint,
                        found.display()
                    );
                    Ok(found)
                }
                _ => Err(self.explain(id, failure)),
            },
        }
    }

    /// The cached folder of a model, if its weights are complete; or the one weight file that the id names.
    fn cached(&self, id: &Id) -> Option<PathBuf> {
        let folder = self.cache.join(repo(id, &id.revision).folder_name());
        let commit = match std::fs::read_to_string(folder.join("refs").join(&id.revision)) {
            Ok(commit) => commit.trim().to_owned(),
            Err(_) => id.revision.clone(),
        };
        let snapshot = folder.join("snapshots").join(&commit);
        if !is_commit(&commit) {
            return None;
        }
        match &id.file {
            None => is_complete(&snapshot).then_some(snapshot),
            Some(file) => {
                let names = weight_files::names_below(&snapshot);
                let names: Vec<&str> = names.iter().map(String::as_str).collect();
                let chosen = choice::matching(file, &names);
                choice::only_model(&chosen).map(|name| snapshot.join(name))
            }
        }
    }

    fn not_cached(&self, id: &Id) -> Error {
        let what =
            format!("{id}: offline (HF_HUB_OFFLINE), and not complete in the cache {}", self.cache.display());
        Error::unsupported(what, "unset HF_HUB_OFFLINE to download it, or give the path of a local copy")
    }

    /// Asks the hub about a revision: its commit, and the names of its files.
    fn info(&self, id: &Id) -> Result<RepoInfo, Failure> {
        let repo = self.api()?.repo(repo(id, &id.revision));
        download::watched(self.timeout, move |_| repo.info())
    }

    /// Downloads what is missing of a commit, and notes which commit the revision is.
    fn snapshot(&self, id: &Id, info: &RepoInfo) -> Result<PathBuf> {
        if !is_commit(&info.sha) {
            let hint = "is HF_ENDPOINT the address of a Hugging Face hub?";
            return Err(Error::malformed(
                &self.endpoint,
                "the hash of a commit",
                format!("{:?}", info.sha),
                hint,
            ));
        }
        let cache = Cache::new(self.cache.clone());
        let folder = cache.repo(repo(id, &info.sha)).pointer_path(&info.sha);
        let names: Vec<&str> = info.siblings.iter().map(|file| file.rfilename.as_str()).collect();
        self.download(id, info, &folder, &needed(&names))?;
        let weights = self.weights(id, &names, &folder)?;
        self.download(id, info, &folder, &weights)?;
        cache.repo(repo(id, &id.revision)).create_ref(&info.sha).map_err(|e| Error::io(&self.cache, e))?;
        match (&id.file, weights.first()) {
            (Some(_), Some(first)) if !has_index_of(id, &names) => Ok(folder.join(first)),
            _ => Ok(folder),
        }
    }

    fn download(&self, id: &Id, info: &RepoInfo, folder: &Path, names: &[String]) -> Result<()> {
        for name in names.iter().filter(|name| !folder.join(name).is_file()) {
            download::file(self, &repo(id, &info.sha), name)
                .map_err(|failure| self.explain_file(id, name, failure))?;
        }
        Ok(())
    }

    /// The files of the weights. The index, where there is one, has been downloaded.
    fn weights(&self, id: &Id, names: &[&str], folder: &Path) -> Result<Vec<String>> {
        if has_index_of(id, names) {
            let file = folder.join(INDEX_FILE);
            let bytes = std::fs::read(&file).map_err(|e| Error::io(&file, e))?;
            return Ok(index::parse(&file, &bytes)?.shards().into_iter().map(str::to_owned).collect());
        }
        choice::choose(id, names)
    }

    /// The error about a model whose revision could not be looked up.
    fn explain(&self, id: &Id, failure: Failure) -> Error {
        let endpoint = &self.endpoint;
        let hint = match failure.status() {
            Some(401 | 403) => {
                "check the spelling; for a private or gated model set HF_TOKEN, and accept its licence"
            }
            Some(404) => "check the spelling of model and revision; a local path must exist as it is written",
            _ if failure.is_unreachable() => "check the network, or give the path of a local copy",
            _ => "is HF_ENDPOINT the address of a Hugging Face hub?",
        };
        let what = format!("{id}: no such file or folder here, and not to be had from {endpoint}: {failure}");
        Error::unsupported(what, hint)
    }

    /// The error about a file that could not be downloaded.
    fn explain_file(&self, id: &Id, name: &str, failure: Failure) -> Error {
        let failure = match failure.into_local() {
            Ok(error) => return Error::io(&self.cache, error),
            Err(failure) => failure,
        };
        let hint = match failure.status() {
            Some(401 | 403) => {
                "set HF_TOKEN to a token that may read this model, and accept its licence on its page"
            }
            _ if failure.is_locked() => {
                "another process is downloading this file: wait for it, and run this again"
            }
            _ => "run the same command again: it goes on where it stopped",
        };
        Error::unsupported(format!("{id}: downloading {name} from {} failed: {failure}", self.endpoint), hint)
    }
}

fn repo(id: &Id, revision: &str) -> Repo {
    Repo::with_revision(id.model.clone(), RepoType::Model, revision.to_owned())
}

/// Git's 40 hexadecimal digits.
fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|b| b.is_ascii_hexdigit())
}

/// The files to download before the weights: config, index, model card, what travels with the weights, and the folders of
/// sentence-transformers' modules (`1_Pooling/config.json`).
fn needed(names: &[&str]) -> Vec<String> {
    let root = |name: &str| {
        is_plain_name(name)
            && (side_files::travels(name) || ["config.json", INDEX_FILE, "README.md"].contains(&name))
    };
    let module = |name: &str| match name.split_once('/') {
        Some((folder, file)) => {
            folder.starts_with(|c: char| c.is_ascii_digit()) && is_plain_name(folder) && is_plain_name(file)
        }
        None => false,
    };
    let modular = names.contains(&"modules.json");
    names.iter().filter(|name| root(name) || modular && module(name)).map(|name| name.to_string()).collect()
}

/// Returns true if a folder has all its weights.
fn is_complete(folder: &Path) -> bool {
    let index = folder.join(INDEX_FILE);
    match std::fs::read(&index) {
        Ok(bytes) => index::parse(&index, &bytes)
            .is_ok_and(|index| index.shards().iter().all(|shard| folder.join(shard).is_file())),
        Err(_) => weight_files::has_weights(folder),
    }
}

/// Returns true if an index names the weights of an id: there is one, and the id names no GGUF beside it.
fn has_index_of(id: &Id, names: &[&str]) -> bool {
    let is_gguf = |file: &String| choice::matching(file, names).iter().any(|name| name.ends_with(".gguf"));
    names.contains(&INDEX_FILE) && !id.file.as_ref().is_some_and(is_gguf)
}
