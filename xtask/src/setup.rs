//! `cargo xtask setup`: what the tree needs beyond cargo. Looks first, and does nothing when nothing is missing.
//!
//! The BPF program needs a compiler with its own library sources (`-Z build-std`) and `bpf-linker`, whose LLVM must not
//! be older than the compiler's. rustup's toolchains are the user's: they are looked at and never changed.

use crate::step;
use crate::workspace::{find_program, is_root, root, target_dir};
use anyhow::{Context, Result, bail};
use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

#[derive(clap::Args)]
pub struct Arguments {
    /// Also what the end-to-end tests and the demo use: iproute2, nginx, dnsmasq, ...
    #[arg(long)]
    lab: bool,
    /// Also what the benchmark compares with
    #[arg(long)]
    bench: bool,
}

/// Where the library sources lie in a toolchain.
const LIBRARY: &str = "lib/rustlib/src/rust/library/core/Cargo.toml";
/// The toolchain Debian packages, as a path that `rustup run` takes for a toolchain.
const DEBIAN_TOOLCHAIN: &str = "/usr";
const DEBIAN_PACKAGES: [&str; 3] = ["rustc-web", "cargo-web", "rust-web-src"];
const BPF_LINKER: &str = "0.13.0";
/// LLVM majors that this version of bpf-linker has a feature for, the best first.
const LLVM_MAJORS: [u32; 2] = [22, 23];

/// Programs of the lab and the Debian packages that bring them.
const LAB: [(&str, &str); 15] = [
    ("ip", "iproute2"),
    ("ethtool", "ethtool"),
    ("ping", "iputils-ping"),
    ("nsenter", "util-linux"),
    ("setpriv", "util-linux"),
    ("ps", "procps"),
    ("nginx", "nginx"),
    ("curl", "curl"),
    ("wrk", "wrk"),
    ("iperf3", "iperf3"),
    ("dnsmasq", "dnsmasq-base"),
    ("dig", "bind9-dnsutils"),
    ("tcpdump", "tcpdump"),
    ("nft", "nftables"),
    ("openssl", "openssl"),
];
const FUZZ: [(&str, &str); 1] = [("c++", "g++")];
const BENCH: [(&str, &str); 2] = [("haproxy", "haproxy"), ("dnsperf", "dnsperf")];
/// What nginx needs to balance connections, where it is no part of the program: what its version says then, file and package.
const STREAM_APART: &str = "--with-stream=dynamic";
const STREAM_MODULE: (&str, &str) = (
    "/usr/lib/nginx/modules/ngx_stream_module.so",
    "libnginx-mod-stream",
);

/// The task itself; says what it found.
///
/// # Errors
/// Something is missing and cannot be installed here.
pub fn run(arguments: &Arguments) -> Result<()> {
    bpf()?;
    if let Some((name, sysroot)) = find_toolchain() {
        eprintln!("BPF toolchain: {name} ({})", sysroot.display());
    }
    if let Some(linker) = find_program("bpf-linker") {
        eprintln!("BPF linker: {}", linker.display());
    }
    if arguments.lab || arguments.bench {
        lab()?;
        python()?;
        eprintln!("lab: complete");
    }
    if arguments.bench {
        bench()?;
        eprintln!("benchmark: complete");
    }
    Ok(())
}

/// Makes sure that the BPF program can be built.
///
/// # Errors
/// Says what to install by hand.
pub fn bpf() -> Result<()> {
    if find_toolchain().is_none() {
        if !can_install() {
            bail!(
                "{}",
                by_hand("no Rust toolchain here has its library sources, which the BPF program needs")
            );
        }
        install(&DEBIAN_PACKAGES)?;
    }
    if find_program("bpf-linker").is_none() {
        install_bpf_linker()?;
    }
    Ok(())
}

/// Makes sure that the programs of the lab are there.
///
/// # Errors
/// Names the packages that are missing and cannot be installed.
pub fn lab() -> Result<()> {
    programs(&LAB)
}

/// What the tests' Python needs, at fixed versions.
const REQUIREMENTS: &str = "tests/python/requirements.txt";

/// Makes sure that there is a Python with Cloudflare's client and a mail server, in the target directory.
///
/// # Errors
/// It cannot be made.
pub fn python() -> Result<()> {
    let folder = target_dir().join("python");
    let wanted = std::fs::read_to_string(root().join(REQUIREMENTS)).context("read the requirements")?;
    let stamp = folder.join("requirements.txt");
    if std::fs::read_to_string(&stamp).is_ok_and(|made| made == wanted) {
        return Ok(());
    }
    // Debian's python3 comes without what makes environments.
    let complete = find_program("python3").is_some_and(|python| {
        let mut probe = Command::new(python);
        let probe = probe.args(["-c", "import venv, ensurepip"]).output();
        probe.is_ok_and(|output| output.status.success())
    });
    if !complete {
        if !can_install() {
            bail!("missing: install the equivalents of Debian's packages python3, python3-venv");
        }
        install(&["python3", "python3-venv"])?;
    }
    let mut make = Command::new("python3");
    make.args(["-m", "venv", "--clear"]).arg(&folder);
    step::must("make a Python environment", &mut make)?;
    let mut pip = Command::new(folder.join("bin/python"));
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"])
        .arg("--requirement")
        .arg(root().join(REQUIREMENTS));
    step::must("install Python packages", &mut pip)?;
    std::fs::write(stamp, wanted).context("note what was installed")
}

/// Makes sure that what the benchmark compares with is there.
///
/// # Errors
/// As for [`lab`].
pub fn bench() -> Result<()> {
    programs(&BENCH)?;
    let (module, package) = STREAM_MODULE;
    if Path::new(module).exists() || !nginx_lacks_stream()? {
        return Ok(());
    }
    if !can_install() {
        bail!("missing: install the equivalent of Debian's package {package}");
    }
    install(&[package])
}

/// Whether nginx can balance connections only with a module.
fn nginx_lacks_stream() -> Result<bool> {
    let nginx = find_program("nginx").context("nginx is missing")?;
    // It tells on its standard error.
    let told = Command::new(nginx).arg("-V").output().context("ask nginx")?;
    Ok(String::from_utf8_lossy(&told.stderr).contains(STREAM_APART))
}

/// Makes sure that the fuzz target can be built.
///
/// # Errors
/// As for [`lab`].
pub fn fuzz() -> Result<()> {
    programs(&FUZZ)
}

fn programs(wanted: &[(&str, &str)]) -> Result<()> {
    let absent = wanted
        .iter()
        .filter(|(program, _)| find_program(program).is_none());
    let mut packages: Vec<&str> = absent.map(|&(_, package)| package).collect();
    packages.dedup();
    if packages.is_empty() {
        return Ok(());
    }
    if !can_install() {
        bail!(
            "missing: install the equivalents of Debian's packages {}",
            packages.join(", ")
        );
    }
    install(&packages)
}

/// The first toolchain that has its library sources: the build script of `lb-userspace` asks in the same order.
fn find_toolchain() -> Option<(String, PathBuf)> {
    let own = env::var("LB_BPF_TOOLCHAIN").ok();
    let names = own
        .as_deref()
        .into_iter()
        .chain(["nightly", "stable", DEBIAN_TOOLCHAIN]);
    names
        .map(|name| (name.to_owned(), sysroot(name)))
        .find_map(|(name, sysroot)| {
            let sysroot = sysroot.filter(|path| path.join(LIBRARY).exists())?;
            Some((name, sysroot))
        })
}

/// Looks into rustup's folder rather than asking rustup, which takes a tenth of a second a question.
fn sysroot(toolchain: &str) -> Option<PathBuf> {
    if toolchain.starts_with('/') {
        let complete = ["bin/rustc", "bin/cargo"]
            .iter()
            .all(|program| Path::new(toolchain).join(program).exists());
        return complete.then(|| toolchain.into());
    }
    let home = env::var_os("RUSTUP_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(env::home_dir()?.join(".rustup")))?;
    let installed = std::fs::read_dir(home.join("toolchains")).ok()?;
    installed.flatten().map(|entry| entry.path()).find(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let rest = name.strip_prefix(toolchain);
        // `nightly-x86_64-unknown-linux-gnu`, and not `nightly-2026-01-01-x86_64-unknown-linux-gnu`.
        rest.is_some_and(|rest| rest.is_empty() || (rest.starts_with('-') && !rest[1..].starts_with("20")))
    })
}

fn install_bpf_linker() -> Result<()> {
    let (_, sysroot) = find_toolchain().context("no toolchain with library sources")?;
    let compiler = llvm_of(&sysroot.join("bin/rustc"))?;
    let fits = |major: &&u32| **major >= compiler;
    let installed = |major: &&u32| Path::new(&llvm_prefix(**major)).join("bin/llvm-config").exists();
    let found = LLVM_MAJORS.iter().filter(fits).find(installed).copied();
    let major = match found {
        Some(major) => major,
        None if can_install() => {
            let major = LLVM_MAJORS.iter().find(fits).copied();
            let major = major.with_context(|| too_new(compiler))?;
            install(&[
                &format!("llvm-{major}-dev"),
                &format!("libpolly-{major}-dev"),
                "libzstd-dev",
            ])?;
            major
        }
        None => bail!("{}", by_hand("bpf-linker is missing")),
    };
    let features = format!("llvm-{major},llvm-link-static");
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["install", "bpf-linker", "--version", BPF_LINKER, "--locked"]);
    cargo
        .args(["--no-default-features", "--features", &features])
        .env("LLVM_PREFIX", llvm_prefix(major));
    // It has no place in this tree's target directory, and does not want its flags.
    cargo
        .env_remove("CARGO_TARGET_DIR")
        .env_remove("RUSTFLAGS")
        .current_dir("/");
    step::must("install bpf-linker (some minutes)", &mut cargo)?;
    if find_program("bpf-linker").is_none() {
        bail!("bpf-linker was installed, but cargo's bin directory is not in PATH: add ~/.cargo/bin");
    }
    Ok(())
}

fn llvm_prefix(major: u32) -> String {
    format!("/usr/lib/llvm-{major}")
}

/// The LLVM major that a compiler was built with.
fn llvm_of(rustc: &Path) -> Result<u32> {
    let output = Command::new(rustc)
        .arg("-vV")
        .output()
        .with_context(|| format!("run {}", rustc.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let version = text.lines().find_map(|line| line.strip_prefix("LLVM version: "));
    let major = version.and_then(|version| version.split('.').next()?.parse().ok());
    major.with_context(|| format!("{} does not say which LLVM it has", rustc.display()))
}

fn too_new(compiler: u32) -> String {
    format!(
        "the compiler has LLVM {compiler}; bpf-linker {BPF_LINKER} knows {LLVM_MAJORS:?} only: use an older toolchain"
    )
}

fn by_hand(what: &str) -> String {
    format!(
        "{what}.\n  Either, for yourself:\n    rustup toolchain install nightly --component rust-src\n    \
         cargo install bpf-linker      (needs the development files of an LLVM not older than the compiler's: \
         `rustc -vV` names it)\n  or, as root on Debian, run this task again: it installs {} and an LLVM, and builds \
         bpf-linker.\n  LB_BPF_TOOLCHAIN names a toolchain (or the path of one) to use instead of the ones looked for.",
        DEBIAN_PACKAGES.join(", ")
    )
}

fn can_install() -> bool {
    is_root() && find_program("apt-get").is_some()
}

/// Installs Debian packages without letting them start their services.
fn install(packages: &[&str]) -> Result<()> {
    step::must("apt-get update", apt().arg("update"))?;
    let services = ["nginx", "haproxy"]
        .into_iter()
        .filter(|name| packages.contains(name));
    let services: Vec<&str> = services
        .filter(|_| Path::new("/run/systemd/system").exists())
        .collect();
    if !services.is_empty() {
        systemctl(&["mask", "--runtime"], &services)?;
    }
    let title = format!("install {}", packages.join(" "));
    let done = step::must(
        &title,
        apt()
            .args(["install", "--yes", "--no-install-recommends"])
            .args(packages),
    );
    if !services.is_empty() {
        systemctl(&["unmask", "--runtime"], &services)?;
        systemctl(&["disable"], &services)?;
    }
    done
}

fn apt() -> Command {
    let mut apt = Command::new("apt-get");
    // In run level 1 no package starts a service (without systemd; with it, see `install`).
    apt.env("DEBIAN_FRONTEND", "noninteractive").env("RUNLEVEL", "1");
    apt.args(["-o", "DPkg::Lock::Timeout=120", "-o", "Acquire::Retries=3"]);
    apt
}

fn systemctl(verb: &[&str], services: &[&str]) -> Result<()> {
    step::must(
        &format!("systemctl {}", verb.join(" ")),
        Command::new("systemctl").args(verb).args(services),
    )
}
