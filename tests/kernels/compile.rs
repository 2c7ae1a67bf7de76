//! Builds kernels/*.cu as a library of this machine: the host's C++ compiler compiles them against kernels/emulator/.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Returns the compiler, or `None` with a message if there is none.
pub fn compiler() -> Option<String> {
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".to_owned());
    if Command::new(&compiler).arg("--version").output().is_ok() {
        return Some(compiler);
    }
    assert!(std::env::var_os("LLMC_REQUIRE_CXX").is_none(), "no C++ compiler: {compiler}");
    eprintln!("SKIPPED: no C++ compiler ({compiler}): the CUDA kernels were not run");
    None
}

/// Returns the library of kernels/ as they are now; compiles it unless an earlier run of the tests has.
pub fn library(compiler: &str) -> PathBuf {
    let kernels = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels");
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let [sources, others] = sources(&kernels);
    let mut key = blake3::Hasher::new();
    key.update(compiler.as_bytes()).update(FLAGS.join(" ").as_bytes());
    for path in sources.iter().chain(&others) {
        key.update(&fs::read(path).unwrap());
    }
    let library = target.join(format!("kernels-{}.so", &key.finalize().to_hex()[..16]));
    if !library.exists() {
        let objects = tempfile::tempdir_in(target).unwrap();
        build(compiler, &sources, objects.path(), &library);
    }
    library
}

/// Returns the compiled files and the files that they include, sorted by name.
fn sources(kernels: &Path) -> [Vec<PathBuf>; 2] {
    let entries = [kernels.to_owned(), kernels.join("emulator")].map(|folder| fs::read_dir(folder).unwrap());
    let mut files: Vec<PathBuf> = entries.into_iter().flatten().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let is = |path: &PathBuf, of: &[&str]| path.extension().is_some_and(|e| of.iter().any(|name| e == *name));
    let sources = files.iter().filter(|path| is(path, &["cu", "cpp"])).cloned().collect();
    [sources, files.into_iter().filter(|path| is(path, &["cuh", "h"])).collect()]
}

/// Builds libcuda.so and libcublas.so over the library of kernels/, in `folder`. If they are loaded in this order,
/// later loads of these names find them.
#[cfg(feature = "cuda")]
pub fn driver(compiler: &str, folder: &Path) -> [PathBuf; 2] {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels/emulator/driver");
    let mut linked = library(compiler);
    ["cuda", "cublas"].map(|name| {
        let file = format!("lib{name}.so");
        let [source, built] = [sources.join(name).with_extension("cpp"), folder.join(&file)];
        let mut command = Command::new(compiler);
        command
            .args(FLAGS.iter().filter(|flag| **flag != "-c"))
            .args(["-I", env!("LLMC_CUDA_INCLUDE")])
            .arg(source);
        command.args(["-x", "none", "-shared", "-o"]).arg(&built).arg(&linked);
        command.arg(format!("-Wl,-soname,{file},-rpath,{}", linked.parent().unwrap().display()));
        assert!(command.status().unwrap().success(), "{file} does not compile");
        linked.clone_from(&built);
        built
    })
}

/// Flags of the compiler. Fortified longjmp refuses to switch fibers; fused multiply-adds would differ between hosts.
const FLAGS: [&str; 13] = [
    "-x",
    "c++",
    "-std=c++20",
    "-O1",
    "-fPIC",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-Wno-unknown-pragmas",
    "-U_FORTIFY_SOURCE",
    "-ffp-contract=off",
    "-DLLMC_EMULATOR",
    "-c",
];

fn build(compiler: &str, sources: &[PathBuf], objects: &Path, library: &Path) {
    let start = |source: &PathBuf| {
        let object = objects.join(source.file_stem().unwrap()).with_extension("o");
        let mut command = Command::new(compiler);
        (command.args(FLAGS).arg(source).arg("-o").arg(&object).spawn().unwrap(), object)
    };
    let mut link = Command::new(compiler);
    for (mut child, object) in sources.iter().map(start).collect::<Vec<_>>() {
        assert!(child.wait().unwrap().success(), "{} does not compile", object.display());
        link.arg(object);
    }
    let linked = objects.join("kernels.so");
    assert!(link.arg("-shared").arg("-o").arg(&linked).status().unwrap().success());
    fs::rename(linked, library).unwrap();
}
