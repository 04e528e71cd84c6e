// SPDX-License-Identifier: GPL-2.0
//! The kernel that the series is on: Debian's source package, or a tree of the user's own.
//!
//! `series/base` records which kernel that is. The build tree keeps each kernel that was needed so
//! far as a commit of its own, `refs/base/TREE` with the recorded tree.

use crate::{
    env::{remove_all, Env, Toolchain},
    ui,
};
use anyhow::{bail, Context, Result};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Commits of the same content are the same commits.
pub const DATE: &str = "2026-01-01T00:00:00Z";

/// What `series/base` says: lines of a word and a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base {
    /// The version that the kernel's Makefile has.
    pub linux: String,
    /// git's id of the whole tree, a checksum of its content.
    pub tree: String,
    /// `None` if the kernel came from a directory.
    pub package: Option<Package>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Package {
    pub name: String,
    pub version: String,
    /// Of the `.deb`.
    pub sha256: String,
}

impl Base {
    pub fn read(repo: &Path) -> Result<Self> {
        Self::parse(&fs::read_to_string(repo.join("series/base")).context("no series/base")?)
    }

    fn parse(text: &str) -> Result<Self> {
        let value = |word: &str| {
            let value = |line: &str| Some(line.strip_prefix(word)?.strip_prefix(' ')?.to_string());
            text.lines().find_map(value)
        };
        let needed = |word| value(word).with_context(|| format!("series/base has no {word}"));
        let package = match value("package") {
            Some(name) => {
                Some(Package { name, version: needed("version")?, sha256: needed("sha256")? })
            }
            None => None,
        };
        Ok(Self { linux: needed("linux")?, tree: needed("tree")?, package })
    }

    pub fn text(&self) -> String {
        let mut text = format!("linux {}\n", self.linux);
        if let Some(package) = &self.package {
            let Package { name, version, sha256 } = package;
            text += &format!("package {name}\nversion {version}\nsha256 {sha256}\n");
        }
        text + &format!("tree {}\n", self.tree)
    }

    fn branch(&self) -> String {
        format!("refs/base/{}", self.tree)
    }
}

/// Runs a shell script of the toolchain in `dir`, with the network.
fn script(env: &Env, dir: &Path, text: &str, arguments: &[&str]) -> Result<String> {
    let mut command = env.tool_in(dir, "bash", &[]);
    ui::output(command.args(["-eo", "pipefail", "-c", text, "bash"]).args(arguments))
}

/// The versions of a package that the archive has, newest first.
fn offered(env: &Env, package: &str) -> Result<Vec<String>> {
    // The suite's own mirror, with its backports beside it.
    let text = "sed -n 's/^deb \\(\\S*\\) trixie main.*/deb \\1 trixie-backports main/p' \
             /etc/apt/sources.list | head -n 1 > /etc/apt/sources.list.d/backports.list
         apt-get -q update >&2
         apt-cache madison \"$1\"";
    let out = script(env, &env.cache, text, &[package])
        .context("the package archive cannot be read: is the network there?")?;
    let version = |line: &str| Some(line.split('|').nth(1)?.trim().to_string());
    Ok(out.lines().filter_map(version).collect())
}

/// Downloads a package and unpacks its kernel source into `into`. Debian's `.gitignore` ignores all
/// files at the top, which would hide new files from `git status`: that line goes.
fn unpack(env: &Env, name: &str, version: &str, into: &Path) -> Result<Package> {
    let dir = env.cache.join("source");
    fs::create_dir_all(&dir)?;
    let file = format!("{name}_{}_all.deb", version.replace(':', "%3a"));
    if !dir.join(&file).exists() {
        let get = "rm -rf partial; mkdir partial; cd partial
            apt-get -q download \"$1=$2\" >&2; mv *.deb \"../$3\"";
        script(env, &dir, get, &[name, version, &file])
            .context("the kernel source could not be downloaded")?;
    }
    let text = "dpkg-deb --fsys-tarfile \"$1\" | tar xO \"./usr/src/$2.tar.xz\" |
         tar xJ --strip-components=1 -C \"$3\"
         sed -i '/^\\/\\*$/d' \"$3/.gitignore\"
         sha256sum \"$1\"";
    let sum = script(env, &dir, text, &[&file, name, &into.to_string_lossy()])?;
    Ok(Package {
        name: name.into(),
        version: version.into(),
        sha256: sum.split(' ').next().unwrap_or_default().into(),
    })
}

/// Copies a tree of the user's own: what is committed if it is a git work tree, all of it if not.
fn copy(dir: &Path, into: &Path) -> Result<()> {
    let copy = if dir.join(".git").exists() {
        "git -C \"$1\" archive HEAD | tar x -C \"$2\""
    } else {
        "cp -a \"$1\"/. \"$2\""
    };
    let mut command = Command::new("bash");
    command.args(["-eo", "pipefail", "-c", copy, "bash"]);
    ui::output(command.args([dir, into])).map(|_| ())
}

/// "7.3.4", from the Makefile.
pub fn version(tree: &Path) -> Result<String> {
    let text = fs::read_to_string(tree.join("Makefile"))?;
    let part = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once('=')?.1.trim().to_string())
    };
    let parts = [part("VERSION ="), part("PATCHLEVEL ="), part("SUBLEVEL =")];
    Ok(parts.into_iter().flatten().collect::<Vec<_>>().join("."))
}

/// Makes a kernel a commit of the build tree, which is made if it is not there; the commit, and what
/// kernel it is.
fn import(
    env: &Env,
    what: &str,
    get: impl FnOnce(&Path) -> Result<Option<Package>>,
) -> Result<(String, Base)> {
    let (linux, partial) = (env.linux(), env.cache.join("source.partial"));
    remove_all(&partial)?;
    fs::create_dir_all(&partial)?;
    let package = ui::step(&format!("get {what}"), |_| get(&partial))?;
    let version = version(&partial).with_context(|| format!("{what} is no kernel"))?;
    ui::step("make it a commit of the build tree", |_| {
        let is_new = !linux.exists();
        if is_new {
            let text = "git init -q -b work && git config user.name 'blkfilter developers' && \
                git config user.email blkfilter@localhost && git config core.compression 0 && \
                git config gc.auto 0";
            script(env, &partial, text, &[])?;
        } else {
            // git finds the objects of the build tree by this file.
            let text = format!("gitdir: {}\n", linux.join(".git").display());
            fs::write(partial.join(".git"), text)?;
        }
        // The index of a new build tree is the one that it keeps.
        let text = "git add -A -f . && git commit-tree -m \"$1\" \"$(git write-tree)\"";
        let mut command = env.tool_in(&partial, "bash", &[]);
        command.args(["-ec", text, "bash", &format!("Linux {version}")]);
        for who in ["AUTHOR", "COMMITTER"] {
            command
                .env(format!("GIT_{who}_NAME"), "blkfilter developers")
                .env(format!("GIT_{who}_EMAIL"), "blkfilter@localhost")
                .env(format!("GIT_{who}_DATE"), DATE);
        }
        if !is_new {
            command.env("GIT_INDEX_FILE", linux.join(".git/blkfilter-import"));
        }
        let commit = ui::output(&mut command)?.trim().to_string();
        if is_new {
            script(env, &partial, "git update-ref --no-deref HEAD \"$1\"", &[&commit])?;
            fs::rename(&partial, &linux)?;
        } else {
            remove_all(&partial)?;
        }
        let tree = ui::output(env.git().args(["rev-parse", &format!("{commit}^{{tree}}")]))?;
        let base = Base { linux: version.clone(), tree: tree.trim().into(), package };
        ui::output(env.git().args(["update-ref", &base.branch(), &commit]))?;
        Ok((commit, base))
    })
}

/// The commit of the kernel that the series is built on, which is fetched if it is not there.
pub fn ensure(env: &Env) -> Result<String> {
    let known = |name: &str| {
        let name = format!("{name}^{{commit}}");
        let mut git = env.git();
        ui::output(git.args(["rev-parse", "-q", "--verify", &name])).ok()
    };
    let there = env.linux().exists();
    if let Some(dir) = &env.kernel {
        if let Some(commit) = there.then(|| known("refs/base/own")).flatten() {
            return Ok(commit.trim().into());
        }
        let (commit, _) =
            import(env, &dir.display().to_string(), |into| copy(dir, into).map(|()| None))?;
        ui::output(env.git().args(["update-ref", "refs/base/own", &commit]))?;
        return Ok(commit);
    }

    let wanted = Base::read(&env.repo)?;
    let commit = match there.then(|| known(&wanted.branch())).flatten() {
        Some(commit) => commit.trim().to_string(),
        None => fetch(env, &wanted)?,
    };
    // For people: `git log base..`, `git rebase -i base`.
    ui::output(env.git().args(["update-ref", "refs/heads/base", &commit]))?;
    Ok(commit)
}

/// Whether `base` is the kernel of `series/base`, not another one that takes its place.
pub fn is_recorded(env: &Env, base: &str) -> Result<bool> {
    let tree = ui::output(env.git().args(["rev-parse", &format!("{base}^{{tree}}")]))?;
    Ok(tree.trim() == Base::read(&env.repo)?.tree)
}

fn fetch(env: &Env, wanted: &Base) -> Result<String> {
    let Some(package) = &wanted.package else {
        bail!(
            "the series is on a kernel {} that is no Debian package: give one with --kernel DIR",
            wanted.linux
        );
    };
    if env.toolchain == Toolchain::Host {
        bail!("--toolchain host does not fetch a kernel: give it one with --kernel DIR");
    }
    let name = package.name.as_str();
    let versions = offered(env, name)?;
    let version = match versions.iter().find(|version| **version == package.version) {
        Some(version) => version,
        None => versions
            .first()
            .with_context(|| format!("the archive has no {name} any more: use --kernel DIR"))?,
    };
    let (commit, base) = import(env, &format!("{name} {version}"), |into| {
        unpack(env, name, version, into).map(Some)
    })?;
    if version == &package.version && base != *wanted {
        bail!("{name} {version} is not the package that series/base has the checksums of");
    }
    if version != &package.version {
        eprintln!("NOTE: {name} {} is not offered any more; using {version}", package.version);
        ui::output(env.git().args(["update-ref", &wanted.branch(), &commit]))?;
    }
    Ok(commit)
}

/// Gets the kernel that a person names: a directory, a version of the package that is used now, or
/// `PACKAGE=VERSION`.
pub fn named(env: &Env, what: &str) -> Result<(String, Base)> {
    let dir = PathBuf::from(what);
    if dir.is_dir() {
        let dir = dir.canonicalize()?;
        return import(env, &dir.display().to_string(), |into| copy(&dir, into).map(|()| None));
    }
    let now = Base::read(&env.repo)?.package;
    let (name, version) = match what.split_once('=') {
        Some((name, version)) => (name.to_string(), version),
        None => {
            let now = now.with_context(|| format!("no directory {what}"))?;
            (now.name, what)
        }
    };
    let versions = offered(env, &name)?;
    if !versions.iter().any(|offered| offered == version) {
        bail!(
            "no directory {what}, and the archive has no {name} {version}; it has: {}",
            versions.join(", ")
        );
    }
    import(env, &format!("{name} {version}"), |into| unpack(env, &name, version, into).map(Some))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base_is_read_as_written() {
        let mut base = Base { linux: "7.3.4".into(), tree: "abc".into(), package: None };
        assert_eq!(Base::parse(&base.text()).unwrap(), base);
        base.package = Some(Package {
            name: "linux-source-7.3".into(),
            version: "7.3.4-1".into(),
            sha256: "def".into(),
        });
        assert_eq!(Base::parse(&base.text()).unwrap(), base);
        let error = Base::parse("linux 7.3.4\n").unwrap_err().to_string();
        assert!(error.contains("no tree"), "{error}");
    }
}
