// SPDX-License-Identifier: GPL-2.0
//! git of the toolchain, in one of the trees.

use crate::env::Env;
use anyhow::{bail, Context, Result};
use std::{
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Commits of the same content are the same commits.
const DATE: &str = "2026-01-01T00:00:00Z";

/// What a diff looks like, whoever makes it.
const DIFF: &str = "diff-tree -r -p --full-index --no-renames --no-color --no-ext-diff \
                    --no-textconv --diff-algorithm=myers -U3";

/// Settings that a person may have made for the repository and that would change what is stored.
const FIXED: &str = "-c diff.suppressBlankEmpty=false -c commit.gpgsign=false \
                     -c status.showUntrackedFiles=normal";

pub struct Git<'a> {
    env: &'a Env,
    tree: PathBuf,
    index: Option<PathBuf>,
}

impl<'a> Git<'a> {
    pub fn new(env: &'a Env, tree: &Path) -> Self {
        Self { env, tree: tree.into(), index: None }
    }

    /// On the objects of the build tree, with an index of its own: no file of the tree is touched.
    pub fn objects(env: &'a Env) -> Self {
        let index = Some(env.linux().join(".git/blkfilter-index"));
        Self { index, ..Self::new(env, &env.linux()) }
    }

    /// git with the words of `line`.
    pub fn command(&self, line: &str) -> Command {
        let mut git = self.env.tool("git");
        git.arg("-C").arg(&self.tree).args(FIXED.split_whitespace()).args(line.split_whitespace());
        git.envs(self.index.iter().map(|index| ("GIT_INDEX_FILE", index)));
        for who in ["AUTHOR", "COMMITTER"] {
            git.env(format!("GIT_{who}_NAME"), "blkfilter developers")
                .env(format!("GIT_{who}_EMAIL"), "blkfilter@localhost")
                .env(format!("GIT_{who}_DATE"), DATE);
        }
        git
    }

    /// Runs git; what git prints, without the white space at its end.
    pub fn run(&self, line: &str) -> Result<String> {
        self.with(line, &[])
    }

    /// Runs git with more arguments, which may have white space in them.
    pub fn with(&self, line: &str, more: &[&str]) -> Result<String> {
        let mut git = self.command(line);
        let out = Self::output(git.args(more), b"").with_context(|| format!("git {line}"))?;
        Ok(String::from_utf8_lossy(&out).trim_end().into())
    }

    /// Runs git with `input`.
    pub fn feed(&self, line: &str, input: impl AsRef<[u8]>) -> Result<Vec<u8>> {
        Self::output(&mut self.command(line), input.as_ref())
    }

    fn output(git: &mut Command, input: &[u8]) -> Result<Vec<u8>> {
        git.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = git.spawn().context("cannot run git")?;
        let mut stdin = child.stdin.take().expect("piped");
        let out = std::thread::scope(|scope| {
            // git may end without having read all; the status says what went wrong then.
            scope.spawn(move || stdin.write_all(input).ok());
            child.wait_with_output()
        })?;
        if !out.status.success() {
            bail!("{}", String::from_utf8_lossy(&out.stderr).trim());
        }
        Ok(out.stdout)
    }

    /// Runs git for what it finds: finding nothing, status 1, is no error, all else is.
    pub fn find(&self, line: &str, more: &[&str]) -> Result<String> {
        let out = self.command(line).args(more).output()?;
        match out.status.code() {
            Some(0 | 1) => Ok(String::from_utf8_lossy(&out.stdout).into_owned()),
            _ => bail!("git {line}: {}", String::from_utf8_lossy(&out.stderr).trim()),
        }
    }

    /// Whether two commits have the same files.
    pub fn is_same(&self, one: &str, other: &str) -> Result<bool> {
        Ok(self.run(&format!("diff-tree -r --raw {one} {other}"))?.is_empty())
    }

    /// The commit that a name stands for.
    pub fn commit_of(&self, name: &str) -> Option<String> {
        self.run(&format!("rev-parse -q --verify {name}^{{commit}}")).ok()
    }

    pub fn blob(&self, id: &str) -> Result<Vec<u8>> {
        self.feed(&format!("cat-file blob {id}"), "")
    }

    /// Stores a content; its id.
    pub fn store(&self, content: &[u8]) -> Result<String> {
        let id = self.feed("hash-object -w --stdin", content)?;
        Ok(String::from_utf8(id)?.trim().into())
    }

    /// Applies a diff to the index.
    pub fn apply(&self, diff: &str) -> Result<()> {
        self.feed("apply --cached --whitespace=nowarn", diff).map(|_| ())
    }

    /// Makes a commit of the index.
    pub fn commit(&self, parent: &str, message: &str) -> Result<String> {
        let tree = self.run("write-tree")?;
        let id = self.feed(&format!("commit-tree -p {parent} {tree}"), message)?;
        Ok(String::from_utf8(id)?.trim().into())
    }

    /// The diff between two trees, of all files or of some.
    pub fn diff(&self, from: &str, to: &str, paths: &[&str]) -> Result<String> {
        let mut git = self.command(&format!("{DIFF} {from} {to} --"));
        Ok(String::from_utf8(Self::output(git.args(paths), b"")?)?)
    }
}
