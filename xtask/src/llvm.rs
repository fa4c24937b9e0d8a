//! Debian's LLVM for a CUDA build on a machine that does not reach GitHub.
//!
//! CubeCL's build downloads LLVM from GitHub into the user's data folder. Debian's packages have one, too, of another version;
//! it is only linked: our feature `cuda` has kernels compiled by NVRTC. What is made here lies in cargo's output folder,
//! and only the builds that `dist` starts see it.

use std::fs;
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::shell::{root, run, target_dir};

/// The variable that says where the user's data folder is.
const DATA_FOLDER: &str = "XDG_DATA_HOME";

/// Debian's LLVM is built for a C library that has this function, since 2.36; with ours, 2.35 is enough for the program.
const ARC4RANDOM: &str = "\
#include <stdlib.h>
#include <sys/random.h>
unsigned int arc4random(void) {
    unsigned int bits;
    if (getentropy(&bits, sizeof bits)) abort();
    return bits;
}
";

/// The variable to set for a build that links Debian's LLVM; nothing where GitHub can be reached.
pub(crate) fn variables() -> Result<Option<(&'static str, PathBuf)>> {
    if reaches_github() {
        return Ok(None);
    }
    let llvm = installed(Path::new("/usr/lib"))
        .context("CubeCL's build would download LLVM, and GitHub cannot be reached: apt-get install llvm-22-dev libzstd-dev")?;
    let lock = fs::read_to_string(root().join("Cargo.lock"))?;
    let version =
        locked_version(&lock, "tracel-llvm-bundler").context("Cargo.lock has no tracel-llvm-bundler")?;
    let data = target_dir().join("debian-llvm");
    lay_out(&llvm, &data.join(format!("tracel/tracel-llvm-{version}")))?;
    eprintln!("linking {} instead of the LLVM that CubeCL's build downloads", llvm.display());
    Ok(Some((DATA_FOLDER, data)))
}

fn reaches_github() -> bool {
    let addresses = ("github.com", 443).to_socket_addrs();
    addresses.is_ok_and(|mut found| {
        found.any(|address| TcpStream::connect_timeout(&address, Duration::from_secs(5)).is_ok())
    })
}

/// The newest `llvm-N` of a folder that has LLVM's static libraries.
fn installed(folder: &Path) -> Option<PathBuf> {
    let names = fs::read_dir(folder).ok()?.filter_map(|entry| Some(entry.ok()?.file_name()));
    let versions = names.filter_map(|name| name.to_str()?.strip_prefix("llvm-")?.parse::<u32>().ok());
    let prefixes = versions.map(|version| (version, folder.join(format!("llvm-{version}"))));
    let usable = prefixes.filter(|(_, prefix)| prefix.join("lib/libLLVMNVPTXCodeGen.a").is_file());
    usable.max().map(|(_, prefix)| prefix)
}

/// The version of a package in the text of a `Cargo.lock`.
fn locked_version<'lock>(lock: &'lock str, package: &str) -> Option<&'lock str> {
    let mut lines = lock.lines().skip_while(|line| *line != format!("name = \"{package}\""));
    lines.nth(1)?.strip_prefix("version = \"")?.strip_suffix('"')
}

/// Makes a folder that CubeCL's build takes for its own LLVM: `bin/llvm-config`, `lib` and the mark of a finished download.
fn lay_out(llvm: &Path, to: &Path) -> Result<()> {
    // Made once: a mark with a new date would have everything above LLVM built again.
    let mark = to.join(".tracel-llvm-installed");
    if mark.exists() {
        return Ok(());
    }
    let (bin, lib) = (to.join("bin"), to.join("lib"));
    if to.exists() {
        fs::remove_dir_all(to)?;
    }
    fs::create_dir_all(&bin)?;
    fs::create_dir_all(&lib)?;
    for entry in fs::read_dir(llvm.join("lib"))? {
        let path = entry?.path();
        if let (Some("a"), Some(name)) = (path.extension().and_then(|it| it.to_str()), path.file_name()) {
            symlink(&path, lib.join(name))?;
        }
    }
    let (source, object) = (lib.join("arc4random.c"), lib.join("arc4random.o"));
    fs::write(&source, ARC4RANDOM)?;
    run(Command::new("cc").args(["-O2", "-c"]).arg(&source).arg("-o").arg(&object))?;
    run(Command::new("ar").arg("rcs").arg(lib.join("libarc4random.a")).arg(&object))?;
    let config = bin.join("llvm-config");
    fs::write(&config, llvm_config(llvm, &lib))?;
    fs::set_permissions(&config, fs::Permissions::from_mode(0o755))?;
    fs::write(mark, "")?;
    Ok(())
}

/// Debian's `llvm-config`, without Polly, which is another package, with Z3 by its name instead of its path, which the build
/// would take for a name, and with our function after LLVM's lowest library.
fn llvm_config(llvm: &Path, lib: &Path) -> String {
    let (llvm, lib) = (llvm.display(), lib.display());
    format!(
        r#"#!/bin/sh
case "$*" in
  *--libdir*) echo '{lib}' ;;
  *) '{llvm}/bin/llvm-config' "$@" |
    sed -E 's/ ?-lPolly(ISL)?\b//g; s/-lLLVMDemangle\b/& -larc4random/; s# /[^ ]*/lib([^/ ]*)\.so# -l\1#g' ;;
esac
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_of_a_package_is_read_from_the_lock() {
        let lock = "[[package]]\nname = \"a-b\"\nversion = \"1.0.0\"\n\n[[package]]\nname = \"a\"\nversion = \"2.3.1-4\"\n";
        assert_eq!(locked_version(lock, "a"), Some("2.3.1-4"));
        assert_eq!(locked_version(lock, "b"), None);
    }

    #[test]
    fn what_debian_tells_is_made_fit_for_the_build() {
        let scratch = std::env::temp_dir().join(format!("pyrograph-llvm-{}", std::process::id()));
        let (llvm, ours) = (scratch.join("llvm-22"), scratch.join("ours"));
        for folder in ["bin", "lib"] {
            fs::create_dir_all(llvm.join(folder)).unwrap();
        }
        fs::write(llvm.join("lib/libLLVMCore.a"), "").unwrap();
        let theirs = llvm.join("bin/llvm-config");
        let says = "-lLLVMCore -lPolly -lPollyISL -lLLVMDemangle -lm /usr/lib/libz3.so -lz";
        fs::write(&theirs, format!("#!/bin/sh\necho {says}\n")).unwrap();
        fs::set_permissions(&theirs, fs::Permissions::from_mode(0o755)).unwrap();

        lay_out(&llvm, &ours).unwrap();
        let asked = |what: &str| {
            let answer = Command::new(ours.join("bin/llvm-config")).args(["--link-static", what]).output();
            String::from_utf8(answer.unwrap().stdout).unwrap().trim_end().to_owned()
        };
        assert_eq!(asked("--libs"), "-lLLVMCore -lLLVMDemangle -larc4random -lm -lz3 -lz");
        assert_eq!(Path::new(&asked("--libdir")), ours.join("lib"));
        for library in ["libLLVMCore.a", "libarc4random.a"] {
            assert!(ours.join("lib").join(library).is_file(), "{library}");
        }
        fs::remove_dir_all(scratch).unwrap();
    }
}
