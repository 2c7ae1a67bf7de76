//! With feature `cuda`: compiles each file of `kernels/` with nvcc to a fat binary and lists them for the driver's
//! module. Without the feature, does nothing: the default build needs only a Rust toolchain.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// Architectures with machine code; later ones use the PTX of compute_80. `kernels/check` has the same list.
const ARCHITECTURES: [&str; 4] = ["80", "86", "89", "90a"];
/// Suffix of files that use instructions of Hopper only.
const HOPPER_ONLY: &str = "_sm90";
/// Folder of the kernels. The image of a file is `NAME.fatbin`.
const KERNELS: &str = "kernels";
/// The first CUDA version that supports compute_90a.
const OLDEST_CUDA: u32 = 12;
const INSTALL: &str =
    "install a CUDA toolkit of version 12 or 13; without root access: eval \"$(kernels/toolkit.sh)\"";

type Result<T> = std::result::Result<T, String>;

fn main() -> ExitCode {
    println!("cargo::rerun-if-changed=build.rs");
    if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return ExitCode::SUCCESS;
    }
    match compile_all() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            message.lines().for_each(|line| println!("cargo::error={line}"));
            ExitCode::FAILURE
        }
    }
}

fn compile_all() -> Result<()> {
    println!("cargo::rerun-if-env-changed=CUDA_HOME");
    let nvcc = find_nvcc()?;
    println!("cargo::rerun-if-changed={}", nvcc.display()); // not PATH, because a virtual environment changes it
    println!("cargo::rustc-env=LLMC_CUDA_INCLUDE={}", nvcc.with_file_name("../include").display());
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set: cargo sets it")?);
    let driver = oldest_driver(&nvcc)?.to_string();
    fs::write(out.join("oldest_driver.rs"), driver).map_err(|e| format!("{}: {e}", out.display()))?;
    files("cuh")?.iter().for_each(|header| println!("cargo::rerun-if-changed={}", header.display()));
    let mut list = String::from("&[\n");
    for source in files("cu")? {
        println!("cargo::rerun-if-changed={}", source.display());
        let name =
            source.file_stem().and_then(OsStr::to_str).ok_or("a kernel's file is not named in UTF-8")?;
        let image = out.join(name).with_extension("fatbin");
        compile(&nvcc, &source, name, &image)?;
        list += &format!("({name:?}, &Image(*include_bytes!({:?}))),\n", image.display().to_string());
    }
    fs::write(out.join("images.rs"), list + "]").map_err(|e| format!("{}: {e}", out.display()))
}

/// Finds nvcc in CUDA_HOME or on the PATH.
fn find_nvcc() -> Result<PathBuf> {
    let in_home = env::var_os("CUDA_HOME").map(|home| Path::new(&home).join("bin"));
    let path = env::var_os("PATH").unwrap_or_default();
    let mut folders = in_home.into_iter().chain(env::split_paths(&path)).map(|folder| folder.join("nvcc"));
    folders.find(|nvcc| nvcc.is_file()).ok_or_else(|| {
        format!(
            "feature `cuda` compiles kernels/ with nvcc, which is neither in CUDA_HOME/bin nor on the PATH\n{INSTALL}"
        )
    })
}

/// Returns the oldest driver API, as 1000·major + 10·minor, that runs this nvcc's output and has every function that
/// `src/cuda/driver/` calls. A driver runs the machine code of toolkits of its own major version.
fn oldest_driver(nvcc: &Path) -> Result<u32> {
    const CALLED: u32 = 12_080; // cuEventElapsedTime_v2
    let output =
        Command::new(nvcc).arg("--version").output().map_err(|e| format!("{}: {e}", nvcc.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let release = text.split_once("release ").and_then(|(_, rest)| rest.split_once('.'));
    let major = release.and_then(|(major, _)| major.parse::<u32>().ok());
    let major = major.ok_or_else(|| format!("{} --version shows no release:\n{text}", nvcc.display()))?;
    if major < OLDEST_CUDA {
        return Err(format!(
            "{} is of CUDA {major}, which is too old for kernels/\n{INSTALL}",
            nvcc.display()
        ));
    }
    Ok(CALLED.max(1000 * major))
}

/// Returns the files of `kernels/` with this extension, sorted.
fn files(extension: &str) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(KERNELS).map_err(|e| format!("{KERNELS}: {e}"))?;
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let mut files: Vec<_> = paths.filter(|path| path.extension() == Some(OsStr::new(extension))).collect();
    files.sort();
    Ok(files)
}

fn compile(nvcc: &Path, source: &Path, name: &str, image: &Path) -> Result<()> {
    let everywhere = !name.ends_with(HOPPER_ONLY);
    let mut command = Command::new(nvcc);
    let threads = env::var("NUM_JOBS").unwrap_or_else(|_| "1".into());
    command.args(["-std=c++17", "-O3", "--fatbin", "--threads", &threads]);
    for architecture in ARCHITECTURES.into_iter().filter(|architecture| everywhere || *architecture == "90a")
    {
        command.arg(format!("--generate-code=arch=compute_{architecture},code=sm_{architecture}"));
    }
    if everywhere {
        command.arg("--generate-code=arch=compute_80,code=compute_80");
    }
    let output = command.arg("-o").arg(image).arg(source).output();
    let output = output.map_err(|e| format!("{}: {e}", nvcc.display()))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{}:\n{}", source.display(), String::from_utf8_lossy(&output.stderr)))
}
