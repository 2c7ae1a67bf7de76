//! The emulated device: compiles the kernels once per run of the tests, launches them by name, and keeps guarded memory.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_char, c_int, c_void};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use libloading::Library;

/// How a grid is launched; the emulator's `Launch`.
#[repr(C)]
pub struct Launch {
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub shared_bytes: usize,
    /// 0 runs threads forward, 1 backward, others shuffle them.
    pub seed: u64,
}

/// The orders of threads that every check runs under. The seed also says how many blocks are resident: 1 + seed mod 3.
pub const SEEDS: [u64; 4] = [0, 1, 2, 11];

type Entry = unsafe extern "C" fn(*const Launch, *mut *mut c_void, *mut c_char, usize) -> c_int;

/// The kernels as a library of this machine.
pub struct Emulator(Library);

impl Emulator {
    /// The emulator, or `None`, said aloud, where there is no C++ compiler.
    pub fn open() -> Option<&'static Emulator> {
        static EMULATOR: OnceLock<Option<Emulator>> = OnceLock::new();
        EMULATOR.get_or_init(Emulator::build).as_ref()
    }

    fn build() -> Option<Emulator> {
        let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".to_owned());
        if Command::new(&compiler).arg("--version").output().is_err() {
            assert!(std::env::var_os("LLMC_REQUIRE_CXX").is_none(), "no C++ compiler: {compiler}");
            eprintln!("SKIPPED: no C++ compiler ({compiler}): the CUDA kernels were not run");
            return None;
        }
        let library = compile(&compiler);
        // SAFETY: the library was just built from kernels/, and its initialisers do nothing.
        Some(Emulator(unsafe { Library::new(library) }.unwrap()))
    }

    /// Runs a kernel of one parameter over its grid.
    ///
    /// The fields of `parameter` must be what the kernel's struct in kernels/README.md says, its pointers those of live
    /// [`Memory`] large enough for the launch.
    pub fn launch<P>(&self, kernel: &str, launch: &Launch, parameter: &P) -> Result<(), String> {
        let name = format!("{kernel}_emulate");
        let mut error = [0 as c_char; 256];
        let mut parameters = [std::ptr::from_ref(parameter).cast_mut().cast::<c_void>()];
        // SAFETY: every exported `…_emulate` has this signature (LLMC_EXPORT), and writes at most error.len() bytes.
        let failed = unsafe {
            let entry =
                self.0.get::<Entry>(name.as_bytes()).map_err(|_| format!("there is no kernel {kernel}"))?;
            entry(launch, parameters.as_mut_ptr(), error.as_mut_ptr(), error.len())
        };
        // SAFETY: the emulator ends its message with a zero.
        let message = || unsafe { CStr::from_ptr(error.as_ptr()) }.to_string_lossy().into_owned();
        if failed == 0 { Ok(()) } else { Err(message()) }
    }
}

/// The library of kernels/ as they are now: compiled where no earlier run of the tests has.
fn compile(compiler: &str) -> PathBuf {
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

/// What is compiled, and what that includes; in order of their names.
fn sources(kernels: &Path) -> [Vec<PathBuf>; 2] {
    let entries = [kernels.to_owned(), kernels.join("emulator")].map(|folder| fs::read_dir(folder).unwrap());
    let mut files: Vec<PathBuf> = entries.into_iter().flatten().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let is = |path: &PathBuf, of: &[&str]| path.extension().is_some_and(|e| of.iter().any(|name| e == *name));
    let sources = files.iter().filter(|path| is(path, &["cu", "cpp"])).cloned().collect();
    [sources, files.into_iter().filter(|path| is(path, &["cuh", "h"])).collect()]
}

/// Switching fibers by longjmp is what the fortified one refuses; fused multiply-adds would differ between hosts.
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

const GUARD: usize = 256;
const POISON: u8 = 0xff;

/// Global memory: some bytes between two guards of NaNs, aligned as cuMemAlloc aligns.
pub struct Memory {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

impl Memory {
    /// `len` bytes of NaNs.
    pub fn poisoned(len: usize) -> Memory {
        let bytes = vec![POISON; len + 3 * GUARD];
        let start = GUARD + (GUARD - bytes.as_ptr() as usize % GUARD) % GUARD;
        Memory { bytes, start, len }
    }

    /// A copy of `bytes`.
    pub fn of(bytes: &[u8]) -> Memory {
        let mut memory = Memory::poisoned(bytes.len());
        memory.bytes[memory.start..][..bytes.len()].copy_from_slice(bytes);
        memory
    }

    /// The address that a kernel is given.
    pub fn pointer(&self) -> u64 {
        self.bytes[self.start..].as_ptr() as u64
    }

    /// What is there now. Panics where anybody wrote beside it.
    pub fn read(&self) -> &[u8] {
        let end = self.start + self.len;
        let guards = [&self.bytes[..self.start], &self.bytes[end..]].concat();
        assert!(guards.iter().all(|&byte| byte == POISON), "a kernel wrote outside of an allocation");
        &self.bytes[self.start..end]
    }
}
