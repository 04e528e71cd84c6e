// SPDX-License-Identifier: GPL-2.0
//! Where everything is, and how to run a program of the toolchain.
//!
//! All that is made lies in the cache directory, `$XDG_CACHE_HOME/blkfilter`:
//!
//! | path | content |
//! |---|---|
//! | `root/` | the toolchain: a Debian 13 root |
//! | `source/` | the kernel source package |
//! | `linux/` | the work tree, a git repository; the series is applied to it |
//! | `build/`, `modules/`, `selftests/` | what is built, one directory a flavour |
//! | `ccache/` | compiler cache |
//! | `guest/` | root image of the guest |
//! | `log/` | output of the last run of each long step |
//! | `runs/` | one directory for each guest that is running |

use anyhow::{bail, Context, Result};
use std::{
    env,
    fs::{self, File},
    hash::{DefaultHasher, Hash, Hasher},
    io::{Read, Seek, Write},
    path::{Path, PathBuf},
    process::Command,
};

/// Runs a program inside the toolchain root, in namespaces of its own: `root` and then the
/// program. The cache, the repository and what else is bound are at their own paths there. When
/// this process dies, all of it dies.
const ENTER: &str = r#"
set -e
root=$1; shift
bind() { mkdir -p "$root$1"; mount --bind "$1" "$root$1"; }
# Before the others: one of them may be below /tmp.
mount -t tmpfs tmpfs "$root/tmp"
printf '%s\n' "$BLKFILTER_BIND" | while IFS= read -r dir; do [ -z "$dir" ] || bind "$dir"; done
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount -t sysfs sysfs "$root/sys"
cwd=$BLKFILTER_CWD
unset BLKFILTER_BIND BLKFILTER_CWD
exec chroot "$root" env --chdir="$cwd" PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 "$@"
"#;

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Toolchain {
    /// A Debian 13 root in the cache, made by mmdebstrap.
    Root,
    /// The programs of this machine.
    Host,
}

pub struct Env {
    pub repo: PathBuf,
    pub cache: PathBuf,
    pub toolchain: Toolchain,
    /// A kernel tree of the user's own.
    pub kernel: Option<PathBuf>,
    _lock: Option<File>,
}

impl Env {
    pub fn new(toolchain: Toolchain, kernel: Option<PathBuf>) -> Result<Self> {
        let repo = Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .expect("xtask is a directory of the repository")
            .to_path_buf();
        let cache = match env::var_os("XDG_CACHE_HOME").filter(|dir| !dir.is_empty()) {
            Some(dir) => PathBuf::from(dir),
            None => Path::new(&env::var_os("HOME").context("HOME is not set")?).join(".cache"),
        }
        .join("blkfilter");
        let whole = |dir: PathBuf| canonical(&dir, "kernel tree");
        let kernel = kernel.map(whole).transpose()?;
        if let Some(dir) = &kernel {
            if !dir.join("block/blk-core.c").exists() {
                bail!("{} is not a kernel tree", dir.display());
            }
        }
        Ok(Self { repo, cache, toolchain, kernel, _lock: None })
    }

    /// Makes sure that only one invocation works on the cache.
    pub fn lock(&mut self) -> Result<()> {
        fs::create_dir_all(&self.cache)
            .with_context(|| format!("cannot make {}", self.cache.display()))?;
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(self.cache.join("lock"))?;
        if file.try_lock().is_err() {
            let mut owner = String::new();
            file.read_to_string(&mut owner)?;
            eprintln!("waiting for another cargo xtask (process {})", owner.trim());
            file.lock()?;
        }
        file.set_len(0)?;
        file.rewind()?;
        write!(file, "{}", std::process::id())?;
        self._lock = Some(file);
        Ok(())
    }

    pub fn root(&self) -> PathBuf {
        self.cache.join("root")
    }

    /// The work tree, one for each kernel that the series is applied to.
    pub fn linux(&self) -> PathBuf {
        self.dir("linux")
    }

    /// A directory of the cache that belongs to the kernel that is used.
    pub fn dir(&self, name: &str) -> PathBuf {
        self.cache.join(format!("{name}{}", self.suffix()))
    }

    /// Sets what is built from a tree of the user's own apart.
    pub fn suffix(&self) -> String {
        self.kernel.as_deref().map(short_name).unwrap_or_default()
    }

    pub fn log(&self, name: &str) -> PathBuf {
        self.cache.join("log").join(format!("{name}.log"))
    }

    /// A program of the toolchain, to be run in `cwd`.
    pub fn tool_in(&self, cwd: &Path, program: &str, bind: &[&Path]) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]);
        if self.toolchain == Toolchain::Host {
            command.arg(program).current_dir(cwd);
        } else {
            let mut binds = vec![self.cache.as_path(), self.repo.as_path()];
            binds.extend(bind);
            let binds: Vec<_> = binds.iter().map(|dir| dir.to_string_lossy()).collect();
            command
                .args(["unshare", "-m", "-p", "-f", "--kill-child"])
                .args(["sh", "-c", ENTER, "sh"])
                .arg(self.root())
                .arg(program)
                .env("BLKFILTER_BIND", binds.join("\n"))
                .env("BLKFILTER_CWD", cwd);
        }
        command
            .env("CCACHE_DIR", self.cache.join("ccache"))
            .env("CCACHE_MAXSIZE", "10G")
            // The same compiler in a root that was made anew is the same compiler.
            .env("CCACHE_COMPILERCHECK", "content")
            // A build of the same source is the same build.
            .env("KBUILD_BUILD_TIMESTAMP", "@1700000000")
            .env("KBUILD_BUILD_USER", "blkfilter")
            .env("KBUILD_BUILD_HOST", "blkfilter")
            // What git prints does not depend on who runs it.
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_COUNT", "1")
            .env("GIT_CONFIG_KEY_0", "safe.directory")
            .env("GIT_CONFIG_VALUE_0", "*");
        command
    }

    pub fn tool(&self, program: &str) -> Command {
        self.tool_in(&self.cache, program, &[])
    }

    /// git, of the toolchain, on the work tree.
    pub fn git(&self) -> Command {
        let mut git = self.tool("git");
        git.arg("-C").arg(self.linux());
        git
    }
}

/// The absolute path of a file or directory that has to be there.
pub fn canonical(path: &Path, what: &str) -> Result<PathBuf> {
    path.canonicalize().with_context(|| format!("no {what} {}", path.display()))
}

pub fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// A name for what is made of a directory of the user's own.
pub fn short_name(dir: &Path) -> String {
    format!("-{:08x}", hash(&dir.as_os_str().as_encoded_bytes()) as u32)
}

/// Whether the stamp at `path` says `what`.
pub fn stamped(path: &Path, what: &str) -> bool {
    fs::read_to_string(path).is_ok_and(|text| text == what)
}

/// Removes what an interrupted run left.
pub fn remove_all(path: &Path) -> Result<()> {
    // A symbolic link, a file or nothing: remove_dir_all() takes only directories.
    match fs::symlink_metadata(path) {
        Err(_) => Ok(()),
        Ok(data) if data.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
    }
    .with_context(|| format!("cannot remove {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{sync::mpsc::channel, thread, time::Duration};

    #[test]
    fn second_invocation_waits() {
        let dir = env::temp_dir().join(format!("xtask-lock-{}", std::process::id()));
        let new = || Env {
            repo: dir.clone(),
            cache: dir.clone(),
            toolchain: Toolchain::Host,
            kernel: None,
            _lock: None,
        };
        let mut first = new();
        first.lock().unwrap();
        let (send, receive) = channel();
        let mut second = new();
        let thread = thread::spawn(move || {
            second.lock().unwrap();
            send.send(()).unwrap();
        });
        assert!(receive.recv_timeout(Duration::from_millis(300)).is_err());
        drop(first);
        assert!(receive.recv_timeout(Duration::from_secs(10)).is_ok());
        thread.join().unwrap();
        fs::remove_dir_all(&dir).unwrap();
    }
}
