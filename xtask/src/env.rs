// SPDX-License-Identifier: GPL-2.0
//! Where everything is, and how to run a program of the toolchain.
//!
//! All that is made lies in the cache directory, `$XDG_CACHE_HOME/blkfilter`:
//!
//! | path | content |
//! |---|---|
//! | `root/` | the toolchain: a Debian 13 root |
//! | `source/` | the kernel source package |
//! | `linux/` | the build tree, a git repository that has each kernel and the series as commits |
//! | `edit/` | the tree that `cargo xtask edit` lays for people |
//! | `commits/`, `base/` | trees of that repository for `cargo xtask commits` and `disassembly` |
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

/// Runs a program inside the toolchain root, in namespaces of its own. The arguments are the root,
/// the directory to work in, the directories to bind at their own paths, "--", and the program with
/// its arguments. When xtask dies, the program dies.
const ENTER: &str = r#"
set -e
root=$1 cwd=$2; shift 2
# Before the others: one of them may be below /tmp.
mount -t tmpfs tmpfs "$root/tmp"
while [ "$1" != -- ]; do mkdir -p "$root$1"; mount --bind "$1" "$root$1"; shift; done
shift
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount -t sysfs sysfs "$root/sys"
exec chroot "$root" env --chdir="$cwd" PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 "$@"
"#;

/// Variables of each program. ccache knows a compiler by its content, so that a root that was made
/// anew makes no difference; builds of the same source are the same; what git prints does not depend
/// on who runs git.
const VARIABLES: &str = "CCACHE_MAXSIZE=10G CCACHE_COMPILERCHECK=content \
    KBUILD_BUILD_TIMESTAMP=@1700000000 KBUILD_BUILD_USER=blkfilter KBUILD_BUILD_HOST=blkfilter \
    GIT_CONFIG_NOSYSTEM=1 GIT_CONFIG_GLOBAL=/dev/null GIT_EDITOR=true \
    GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0=safe.directory GIT_CONFIG_VALUE_0=*";

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
        // cargo says where xtask is, also if two clones share a target directory.
        let xtask = env::var_os("CARGO_MANIFEST_DIR").unwrap_or(env!("CARGO_MANIFEST_DIR").into());
        let repo = Path::new(&xtask).parent().context("no directory above xtask")?.to_path_buf();
        let set = env::var_os("XDG_CACHE_HOME").filter(|dir| !dir.is_empty()).map(PathBuf::from);
        let home = || Some(Path::new(&env::var_os("HOME")?).join(".cache"));
        let cache = set.or_else(home).context("HOME is not set")?.join("blkfilter");
        let kernel = kernel.map(|dir| canonical(&dir, "kernel tree")).transpose()?;
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
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false);
        let mut file = options.open(self.cache.join("lock"))?;
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
            command.current_dir(cwd);
        } else {
            command.args("unshare -m -p -f --kill-child sh -c".split(' ')).args([ENTER, "sh"]);
            command.args([&self.root(), cwd, &self.cache, &self.repo]).args(bind).arg("--");
        }
        // A hook of git sets these.
        for name in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY"] {
            command.env_remove(name);
        }
        let variables = VARIABLES.split(' ').filter_map(|variable| variable.split_once('='));
        command.arg(program).env("CCACHE_DIR", self.cache.join("ccache")).envs(variables);
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

/// The names of the entries of a directory, sorted.
pub fn names_in(dir: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(dir).and_then(|entries| entries.collect::<Result<Vec<_>, _>>());
    let entries = entries.with_context(|| format!("cannot read {}", dir.display()))?;
    let name = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
    let mut names: Vec<String> = entries.iter().map(name).collect();
    names.sort();
    Ok(names)
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

    #[test]
    fn lock_is_held_until_the_end() {
        let dir = env::temp_dir().join(format!("xtask-lock-{}", std::process::id()));
        let mut env = Env::new(Toolchain::Host, None).unwrap();
        env.cache = dir.clone();
        env.lock().unwrap();
        let file = File::open(dir.join("lock")).unwrap();
        assert!(file.try_lock().is_err());
        drop(env);
        assert!(file.try_lock().is_ok());
        fs::remove_dir_all(&dir).unwrap();
    }
}
