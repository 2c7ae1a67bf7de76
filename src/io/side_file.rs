//! Reading the small files of a checkpoint whole: regular files of a bounded size that hold what they are named for.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::error::{Error, Result};

/// The largest file that is read whole; the largest tokenizer.json of a public model has 40 MB.
const MAX_BYTES: u64 = 256 << 20;

/// Reads a file whole.
///
/// # Errors
/// A file that is [not regular](regular_len), absurdly large, or only [stands in](refuse_stand_in) for the one it is named for.
pub(crate) fn read_whole(path: &Path) -> Result<Vec<u8>> {
    let length = regular_len(path)?;
    if length > MAX_BYTES {
        let (expected, found) = (format!("at most {MAX_BYTES} bytes"), length.to_string());
        return Err(Error::malformed(
            path,
            expected,
            found,
            "this is not the file it is named for: get it again",
        ));
    }
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|e| Error::io(path, e))?;
    file.take(MAX_BYTES).read_to_end(&mut bytes).map_err(|e| Error::io(path, e))?;
    refuse_stand_in(path, &bytes)?;
    Ok(bytes)
}

/// Reads a file of text whole.
///
/// # Errors
/// Those of [`read_whole`]; bytes that are not UTF-8.
pub(crate) fn read_text(path: &Path) -> Result<String> {
    String::from_utf8(read_whole(path)?).map_err(|e| {
        let found = format!("other bytes at offset {}", e.utf8_error().valid_up_to());
        Error::malformed(path, "UTF-8 text", found, "convert it to UTF-8 first (`iconv -t UTF-8`)")
    })
}

/// Returns blake3 of a regular file's content.
pub(crate) fn file_digest(path: &Path) -> Result<String> {
    regular_len(path)?;
    let mut hasher = blake3::Hasher::new();
    hasher.update_mmap_rayon(path).map_err(|e| Error::io(path, e))?;
    Ok(hasher.finalize().to_hex().to_string())
}

/// Returns the length of a regular file. Everything else is refused: a pipe would be waited for without end.
pub(crate) fn regular_len(path: &Path) -> Result<u64> {
    let metadata = path.metadata().map_err(|e| Error::io(path, e))?;
    match metadata.is_file() {
        true => Ok(metadata.len()),
        false => {
            let hint = "write it to a file on disk first";
            Err(Error::malformed(path, "a regular file", "something else", hint))
        }
    }
}

/// Refuses what downloads leave in the place of a file: Git LFS pointers and web pages.
pub(crate) fn refuse_stand_in(path: &Path, bytes: &[u8]) -> Result<()> {
    let start = bytes[..bytes.len().min(64)].trim_ascii_start();
    if start.starts_with(b"version https://git-lfs.github.com/") {
        let hint = "run `git lfs pull` in its folder, or download the file from its page again";
        return Err(Error::malformed(path, "the file itself", "a Git LFS pointer to it", hint));
    }
    let is_page = ["<!doctype html", "<html"]
        .iter()
        .any(|tag| start.get(..tag.len()).is_some_and(|found| found.eq_ignore_ascii_case(tag.as_bytes())));
    if is_page {
        let hint =
            "the download saved a message (a login, an error) in its place; gated models need HF_TOKEN";
        return Err(Error::malformed(path, "the file itself", "a web page", hint));
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn stand_ins_are_named() {
        let check = |bytes: &[u8], expected: Option<&str>| {
            let found = refuse_stand_in(Path::new("x.json"), bytes).err().map(|error| error.to_string());
            match (&found, expected) {
                (Some(found), Some(expected)) => assert!(found.contains(expected), "{found}"),
                _ => assert!(found.is_none() && expected.is_none(), "{found:?}"),
            }
        };
        check(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", Some("Git LFS pointer"));
        check(b"\n <!DOCTYPE HTML><html>", Some("a web page"));
        check(b"<html lang=en>", Some("a web page"));
        check(b"{\"a\": \"<html>\"}", None);
        check(b"", None);
    }

    #[cfg(unix)]
    #[test]
    fn a_pipe_is_refused_and_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("config.json");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status();
        assert!(made.unwrap().success(), "mkfifo");
        let error = read_whole(&pipe).unwrap_err();
        assert!(error.to_string().contains("a regular file"), "{error}");
        assert!(file_digest(&pipe).unwrap_err().to_string().contains("a regular file"));
        assert!(read_text(Path::new("/dev/zero")).unwrap_err().to_string().contains("a regular file"));
    }

    #[test]
    fn a_sparse_giant_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(3 << 30).unwrap();
        let error = read_whole(file.path()).unwrap_err();
        assert!(error.to_string().contains("at most 268435456 bytes"), "{error}");
    }
}
