//! The environment variables that every tool of the hub respects
//! (<https://huggingface.co/docs/huggingface_hub/package_reference/environment_variables>).

use std::env;
use std::path::PathBuf;
use std::time::Duration;

use super::client::Hub;

/// Seconds of silence where `HF_HUB_DOWNLOAD_TIMEOUT` says nothing else.
const TIMEOUT: u64 = 30;

impl Hub {
    /// As HF_ENDPOINT, HF_HUB_CACHE, HF_HOME, HF_TOKEN, HF_TOKEN_PATH, HF_HUB_OFFLINE, HF_HUB_DOWNLOAD_TIMEOUT and
    /// HF_HUB_DISABLE_PROGRESS_BARS say.
    pub(crate) fn from_env() -> Hub {
        Hub::from_variables(|name| env::var(name).ok().filter(|value| !value.is_empty()))
    }

    fn from_variables(var: impl Fn(&str) -> Option<String>) -> Hub {
        let home = home(&var);
        let endpoint = var("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".into());
        let cache = var("HF_HUB_CACHE").or_else(|| var("HUGGINGFACE_HUB_CACHE")).map(PathBuf::from);
        let on = |name: &str| var(name).is_some_and(|value| is_true(&value));
        let seconds = var("HF_HUB_DOWNLOAD_TIMEOUT").and_then(|value| value.parse().ok()).filter(|&s| s > 0);
        let token_file = var("HF_TOKEN_PATH").map_or_else(|| home.join("token"), PathBuf::from);
        let token = var("HF_TOKEN").or_else(|| std::fs::read_to_string(token_file).ok());
        Hub {
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            cache: cache.unwrap_or_else(|| home.join("hub")),
            token: token.map(|token| token.trim().to_owned()).filter(|token| !token.is_empty()),
            offline: on("HF_HUB_OFFLINE") || on("TRANSFORMERS_OFFLINE"),
            timeout: Duration::from_secs(seconds.unwrap_or(TIMEOUT)),
            progress: !on("HF_HUB_DISABLE_PROGRESS_BARS"),
        }
    }
}

fn home(var: &impl Fn(&str) -> Option<String>) -> PathBuf {
    if let Some(home) = var("HF_HOME") {
        return home.into();
    }
    let caches = var("XDG_CACHE_HOME").map(PathBuf::from);
    let caches = caches.or_else(|| Some(env::home_dir()?.join(".cache")));
    caches.unwrap_or_else(|| PathBuf::from(".cache")).join("huggingface")
}

fn is_true(value: &str) -> bool {
    ["1", "true", "yes", "on"].iter().any(|word| value.eq_ignore_ascii_case(word))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn with(variables: &[(&str, &str)]) -> Hub {
        Hub::from_variables(|name| {
            variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_string())
        })
    }

    #[test]
    fn variables_say_where_the_cache_is() {
        assert_eq!(with(&[("HF_HOME", "/h")]).cache, PathBuf::from("/h/hub"));
        assert_eq!(with(&[("HF_HOME", "/h"), ("HF_HUB_CACHE", "/c")]).cache, PathBuf::from("/c"));
        assert_eq!(with(&[("XDG_CACHE_HOME", "/x")]).cache, PathBuf::from("/x/huggingface/hub"));
        assert!(with(&[]).cache.ends_with("huggingface/hub"));
    }

    #[test]
    fn variables_say_how_to_talk() {
        let plain = with(&[("HF_HOME", "/nowhere")]);
        assert_eq!(
            (plain.endpoint.as_str(), plain.token, plain.offline),
            ("https://huggingface.co", None, false)
        );
        let set = with(&[
            ("HF_ENDPOINT", "http://127.0.0.1:1/"),
            ("HF_TOKEN", " hf_x\n"),
            ("HF_HUB_OFFLINE", "YES"),
            ("HF_HUB_DOWNLOAD_TIMEOUT", "7"),
            ("HF_HUB_DISABLE_PROGRESS_BARS", "1"),
        ]);
        assert_eq!(set.endpoint, "http://127.0.0.1:1");
        assert_eq!(set.token.as_deref(), Some("hf_x"));
        assert!(set.offline && !set.progress);
        assert_eq!(set.timeout, Duration::from_secs(7));
        assert!(!with(&[("HF_HUB_OFFLINE", "0")]).offline);
    }

    #[test]
    fn the_token_file_lies_beside_the_cache() {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join("token"), "hf_file\n").unwrap();
        let hub = with(&[("HF_HOME", home.path().to_str().unwrap())]);
        assert_eq!(hub.token.as_deref(), Some("hf_file"));
    }
}
