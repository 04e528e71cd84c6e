// SPDX-License-Identifier: GPL-2.0
//! The kernel that the series is on: Debian's source package, or a tree of the user's own.
//!
//! `series/base` records which kernel that is. The repository of the build tree keeps each kernel
//! that was needed so far as a commit, `refs/base/TREE` with the recorded tree.

use crate::{
    env::{remove_all, Env, Toolchain},
    git::Git,
    ui,
};
use anyhow::{bail, Context, Result};
use std::{fs, path::Path, process::Command};

/// What `series/base` says: lines of a word and a value. `linux` is the version in the kernel's
/// Makefile, `tree` git's id of the whole tree. Debian's package has its name, `version` and, for
/// the `.deb`, `sha256` too.
#[derive(Debug, PartialEq, Eq)]
pub struct Base(pub String);

impl Base {
    pub fn read(repo: &Path) -> Result<Self> {
        Ok(Self(fs::read_to_string(repo.join("series/base")).context("no series/base")?))
    }

    pub fn get(&self, word: &str) -> Result<&str> {
        let word_of = |line: &&str| line.split(' ').next() == Some(word);
        let line = self.0.lines().find(word_of);
        line.map(|line| &line[word.len() + 1..])
            .with_context(|| format!("series/base has no {word}"))
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

/// Downloads a package, unpacks its kernel source into `into`, and gives its lines of `series/base`.
/// Debian's `.gitignore` ignores all files at the top, which would hide new files from `git status`:
/// that line goes.
fn unpack(env: &Env, name: &str, version: &str, into: &Path) -> Result<String> {
    let dir = env.cache.join("source");
    fs::create_dir_all(&dir)?;
    let file = format!("{name}_{}_all.deb", version.replace(':', "%3a"));
    let text = "
        if ! [ -e \"$3\" ]; then
            rm -rf partial; mkdir partial; cd partial
            apt-get -q download \"$1=$2\" >&2; mv *.deb \"../$3\"; cd ..
        fi
        dpkg-deb --fsys-tarfile \"$3\" | tar xO \"./usr/src/$1.tar.xz\" |
            tar xJ --strip-components=1 -C \"$4\"
        sed -i '/^\\/\\*$/d' \"$4/.gitignore\"
        sha256sum \"$3\"";
    let sum = script(env, &dir, text, &[name, version, &file, &into.to_string_lossy()])?;
    let sum = sum.split(' ').next().unwrap_or_default();
    Ok(format!("package {name}\nversion {version}\nsha256 {sum}\n"))
}

/// Copies a tree of the user's own: what is committed if it is a git work tree, all of it if not.
fn copy(dir: &Path, into: &Path) -> Result<String> {
    let copy = match dir.join(".git").exists() {
        true => "git -C \"$1\" archive HEAD | tar x -C \"$2\"",
        false => "cp -a \"$1\"/. \"$2\"",
    };
    let mut command = Command::new("bash");
    command.args(["-eo", "pipefail", "-c", copy, "bash"]);
    ui::output(command.args([dir, into])).map(|_| String::new())
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

/// Makes a kernel a commit in the repository of the build tree; the commit, and what kernel it is.
fn import(
    env: &Env,
    what: &str,
    get: impl FnOnce(&Path) -> Result<String>,
) -> Result<(String, Base)> {
    let (linux, dir) = (env.linux(), env.cache.join("source.partial"));
    remove_all(&dir)?;
    fs::create_dir_all(&dir)?;
    let lines = ui::step(&format!("get {what}"), |_| get(&dir))?;
    let version = version(&dir).with_context(|| format!("{what} is no kernel"))?;
    ui::step("make it a commit of the build tree", |_| {
        let git = Git::objects(env);
        if !linux.exists() {
            fs::create_dir_all(&linux)?;
            git.run("init -q -b build")?;
            git.with("config user.name", &["blkfilter developers"])?;
            for setting in ["user.email blkfilter@localhost", "core.compression 0", "gc.auto 0"] {
                git.run(&format!("config {setting}"))?;
            }
        }
        git.run("read-tree --empty")?;
        let mut add = env.tool_in(&dir, "git", &[]);
        add.env("GIT_DIR", linux.join(".git")).env("GIT_WORK_TREE", &dir);
        add.env("GIT_INDEX_FILE", linux.join(".git/blkfilter-index"));
        ui::output(add.args(["add", "-A", "-f", "."]))?;
        let tree = git.run("write-tree")?;
        let commit = git.with(&format!("commit-tree {tree} -m"), &[&format!("Linux {version}")])?;
        git.run(&format!("update-ref refs/base/{tree} {commit}"))?;
        remove_all(&dir)?;
        Ok((commit, Base(format!("linux {version}\n{lines}tree {tree}\n"))))
    })
}

/// The commit of the kernel that the series is built on, which is fetched if it is not there.
pub fn ensure(env: &Env) -> Result<String> {
    let git = Git::objects(env);
    let known = |name: &str| env.linux().exists().then(|| git.commit_of(name)).flatten();
    if let Some(dir) = &env.kernel {
        if let Some(commit) = known("refs/base/own") {
            return Ok(commit);
        }
        let (commit, _) = import(env, &dir.display().to_string(), |into| copy(dir, into))?;
        git.run(&format!("update-ref refs/base/own {commit}"))?;
        return Ok(commit);
    }
    let wanted = Base::read(&env.repo)?;
    let name = format!("refs/base/{}", wanted.get("tree")?);
    let commit = match known(&name) {
        Some(commit) => commit,
        None => fetch(env, &wanted)?,
    };
    // A kernel that takes the place of the recorded one has that one's name from now on.
    git.run(&format!("update-ref {name} {commit}"))?;
    Ok(commit)
}

/// Whether `base` is the kernel of `series/base`, not another one that takes its place.
pub fn is_recorded(env: &Env, base: &str) -> Result<bool> {
    let tree = Git::objects(env).run(&format!("rev-parse {base}^{{tree}}"))?;
    Ok(tree == Base::read(&env.repo)?.get("tree")?)
}

fn fetch(env: &Env, wanted: &Base) -> Result<String> {
    let Ok(name) = wanted.get("package") else {
        let linux = wanted.get("linux")?;
        bail!(
            "the series is on a Linux {linux} that is no Debian package: `cargo xtask rebase --base \
             DIR` takes that kernel from a directory, --kernel DIR builds with another one"
        );
    };
    if env.toolchain == Toolchain::Host {
        bail!("--toolchain host does not fetch a kernel: give it one with --kernel DIR");
    }
    let (versions, pinned) = (offered(env, name)?, wanted.get("version")?);
    let version = match versions.iter().find(|version| *version == pinned) {
        Some(version) => version,
        None => versions
            .first()
            .with_context(|| format!("the archive has no {name} any more: use --kernel DIR"))?,
    };
    let what = format!("{name} {version}");
    let (commit, base) = import(env, &what, |into| unpack(env, name, version, into))?;
    if version != pinned {
        eprintln!("NOTE: {name} {pinned} is not offered any more; using {version}");
    } else if base != *wanted {
        bail!("{what} is not the package that series/base has the checksums of");
    }
    Ok(commit)
}

/// Gets the kernel that a person names: a directory, a version of the package that is used now, or
/// `PACKAGE=VERSION`.
pub fn named(env: &Env, what: &str) -> Result<(String, Base)> {
    if let Ok(dir) = Path::new(what).canonicalize() {
        return import(env, &dir.display().to_string(), |into| copy(&dir, into));
    }
    let now = Base::read(&env.repo)?;
    let (name, version) = match what.split_once('=') {
        Some(words) => words,
        None => (now.get("package").ok().with_context(|| format!("no directory {what}"))?, what),
    };
    let versions = offered(env, name)?;
    if !versions.iter().any(|offered| offered == version) {
        let versions = versions.join(", ");
        bail!("no directory {what}, and the archive has no {name} {version}; it has: {versions}");
    }
    import(env, &format!("{name} {version}"), |into| unpack(env, name, version, into))
}
