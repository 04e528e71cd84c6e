// SPDX-License-Identifier: GPL-2.0
//! Edits of our files on `main`: which commit of the series does each hunk belong to?
//!
//! A hunk goes to the commit that the lines which the hunk replaces came with. A hunk that only adds
//! lines goes to the commit that both neighbouring lines came with. Where lines of several commits
//! are concerned there is no answer, and a person has to give one. Each version of the file from that
//! commit on gets the hunk, at the lines that became those which the hunk replaces.

use crate::{
    edit,
    env::Env,
    git::Git,
    series::{self, Commit, Series},
    source,
};
use anyhow::{bail, Context, Result};
use std::collections::BTreeSet;

/// Lines `old.0 .. old.0 + old.1` of the old version became `new.0 .. new.0 + new.1` of the new one,
/// counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Hunk {
    old: (usize, usize),
    new: (usize, usize),
}

impl Hunk {
    /// "@@ -3,2 +4 @@ …" of a diff without context.
    fn parse(line: &str) -> Option<Self> {
        let (ranges, _) = line.strip_prefix("@@ -")?.split_once(" @@")?;
        let (old, new) = ranges.split_once(" +")?;
        let range = |text: &str| {
            let (first, count) = text.split_once(',').unwrap_or((text, "1"));
            let (first, count) = (first.parse::<usize>().ok()?, count.parse::<usize>().ok()?);
            // Without lines it names the line before.
            Some((first - usize::from(count > 0), count))
        };
        Some(Self { old: range(old)?, new: range(new)? })
    }

    /// The hunk as it is for an earlier version of the file; `lines` has, for each line of the old
    /// version, that line's number in the earlier one. `None` if the place is not there.
    fn earlier(&self, lines: &[Option<usize>]) -> Option<Self> {
        let (first, count) = self.old;
        let place = if count > 0 {
            let place = lines[first]?;
            let same = |n: usize| lines[first + n] == Some(place + n);
            (0..count).all(same).then_some(place)?
        } else {
            let before = first.checked_sub(1).map(|line| lines[line]);
            let after = lines.get(first).copied();
            match (before.flatten(), after.flatten()) {
                (Some(before), Some(after)) if after != before + 1 => return None,
                (Some(before), _) => before + 1,
                (None, Some(after)) => after,
                (None, None) if lines.is_empty() => 0,
                (None, None) => return None,
            }
        };
        Some(Self { old: (place, count), ..*self })
    }

    /// The commits that the hunk may belong to; `owners` has one for each line of the old version.
    fn candidates(&self, owners: &[usize]) -> BTreeSet<usize> {
        let (first, count) = self.old;
        let lines = match count {
            0 => first.saturating_sub(1)..(first + 1).min(owners.len()),
            _ => first..first + count,
        };
        owners[lines].iter().copied().collect()
    }
}

/// For each of `count` lines of the new version its number in the old one.
fn lines_before(hunks: &[Hunk], count: usize) -> Vec<Option<usize>> {
    let mut lines = Vec::new();
    let mut shift = 0isize;
    for hunk in hunks {
        lines.extend((lines.len()..hunk.new.0).map(|line| Some((line as isize + shift) as usize)));
        lines.extend((0..hunk.new.1).map(|_| None));
        shift += hunk.old.1 as isize - hunk.new.1 as isize;
    }
    lines.extend((lines.len()..count).map(|line| Some((line as isize + shift) as usize)));
    lines
}

/// The old version with the hunks; `None` if a last line without a line break would not be the last.
fn with_hunks(old: &str, new: &str, hunks: &[Hunk]) -> Option<String> {
    let old: Vec<&str> = old.split_inclusive('\n').collect();
    let new: Vec<&str> = new.split_inclusive('\n').collect();
    let (mut parts, mut at): (Vec<&str>, usize) = (Vec::new(), 0);
    for hunk in hunks {
        parts.extend(&old[at..hunk.old.0]);
        parts.extend(&new[hunk.new.0..hunk.new.0 + hunk.new.1]);
        at = hunk.old.0 + hunk.old.1;
    }
    parts.extend(&old[at..]);
    let is_whole = parts.iter().rev().skip(1).all(|line| line.ends_with('\n'));
    is_whole.then(|| parts.concat())
}

/// What is being done.
struct Absorb<'a> {
    git: Git<'a>,
    /// The commits of the series as they are stored, and as git commits.
    old: &'a Series,
    ids: Vec<String>,
    /// The commit that gets all that is not clear.
    into: Option<usize>,
    /// The commits as they become.
    commits: Vec<Commit>,
    questions: Vec<String>,
    said: Vec<String>,
}

impl Absorb<'_> {
    /// The commit that gets something; `None` leaves a question.
    fn decide(&mut self, what: &str, candidates: &BTreeSet<usize>) -> Option<usize> {
        let name = |n: &usize| self.old.commits[*n].name.as_str();
        let target = candidates.first().copied().filter(|_| candidates.len() == 1).or(self.into);
        if let Some(target) = &target {
            self.said.push(format!("{what}: {}", name(target)));
        } else if candidates.is_empty() {
            self.questions.push(format!("{what}: no commit has this file"));
        } else {
            let names = candidates.iter().map(name).collect::<Vec<_>>().join(" or ");
            self.questions.push(format!("{what}: {names}?"));
        }
        target
    }

    fn text(&self, path: &str, version: &str) -> Result<String> {
        let bytes = self.git.blob(series::id(version))?;
        String::from_utf8(bytes).with_context(|| format!("{path} is not text"))
    }

    /// The difference between two versions.
    fn hunks(&self, from: &str, to: &str) -> Result<Vec<Hunk>> {
        let (from, to) = (series::id(from), series::id(to));
        let how = "diff -U0 --no-color --no-ext-diff --diff-algorithm=histogram";
        let diff = self.git.run(&format!("{how} --text --inter-hunk-context=0 {from} {to}"))?;
        Ok(diff.lines().filter_map(Hunk::parse).collect())
    }

    /// The commit that each line of the last version of a file came with.
    fn owners(&self, path: &str) -> Result<Vec<usize>> {
        let tip = self.ids.last().context("series/ is empty")?;
        let blame = self.git.run(&format!("blame -s -l --abbrev=40 {tip} -- {path}"))?;
        let owner = |line: &str| {
            let id = line.trim_start_matches('^').get(..39)?;
            self.ids.iter().position(|known| known.starts_with(id))
        };
        let wrong = |line: &str| format!("git blame of {path} says {line:?}");
        blame.lines().map(|line| owner(line).with_context(|| wrong(line))).collect()
    }

    fn edited(&mut self, path: &str, before: &str, after: &str) -> Result<()> {
        let (mode, old_mode) = (&after[..7], &before[..7]);
        if mode != old_mode {
            for version in self.commits.iter_mut().filter_map(|commit| commit.own.get_mut(path)) {
                if version.starts_with(old_mode) {
                    version.replace_range(..7, mode);
                }
            }
            self.said.push(format!("{path}: mode {mode}"));
        }
        let (new, owners) = (self.text(path, after)?, self.owners(path)?);
        let mut hunks = Vec::new();
        for hunk in self.hunks(before, after)? {
            let what = format!("{path}:{}", hunk.new.0 + 1);
            let mut candidates = hunk.candidates(&owners);
            if owners.is_empty() {
                let has = |n: &usize| self.old.commits[*n].own.contains_key(path);
                candidates.extend((0..self.old.commits.len()).filter(has));
            }
            let target = self.decide(&what, &candidates);
            hunks.extend(target.map(|target| (hunk, target)));
        }
        if !self.questions.is_empty() {
            return Ok(());
        }
        let mut there: Option<String> = None;
        for n in 0..self.commits.len() {
            // `--into` may name a commit that did not change this file.
            let is_target = hunks.iter().any(|(_, target)| *target == n);
            let own = self.commits[n].own.get(path).cloned();
            there = own.clone().or(there).filter(|version| !version.starts_with("000000"));
            let own = own.filter(|version| !version.starts_with("000000"));
            let Some(version) = own.or_else(|| there.clone().filter(|_| is_target)) else {
                if is_target {
                    let name = &self.commits[n].name;
                    self.questions.push(format!("{path} does not exist yet in {name}"));
                }
                continue;
            };
            let lines = lines_before(&self.hunks(&version, before)?, owners.len());
            let wanted = hunks.iter().filter(|(_, target)| *target <= n);
            let earlier: Option<Vec<Hunk>> = wanted.map(|(hunk, _)| hunk.earlier(&lines)).collect();
            let old = self.text(path, &version)?;
            if let Some(text) = earlier.and_then(|earlier| with_hunks(&old, &new, &earlier)) {
                let version = format!("{}{}", &version[..7], self.git.store(text.as_bytes())?);
                there = Some(version.clone());
                self.commits[n].own.insert(path.into(), version);
            } else {
                let name = &self.commits[n].name;
                self.questions
                    .push(format!("{path}: the edit does not fit this file as of {name}"));
            }
        }
        Ok(())
    }
}

#[derive(clap::Args)]
pub struct Options {
    /// The commit that gets what does not clearly belong to one: number or part of its name.
    #[arg(long, value_name = "COMMIT")]
    pub into: Option<String>,
}

/// The files that differ from the stored series.
pub fn edited(env: &Env, series: &Series) -> Result<Vec<String>> {
    let (files, last) = (series::files(env, series)?, series.last());
    let mut paths: BTreeSet<String> = files.keys().cloned().collect();
    paths.extend(last.keys().map(|path| path.to_string()));
    paths.retain(|path| last.get(path.as_str()).copied() != files.get(path));
    Ok(paths.into_iter().collect())
}

/// `cargo xtask absorb`.
pub fn absorb(env: &Env, options: &Options) -> Result<i32> {
    let base = source::ensure(env)?;
    edit::finish(env)?;
    let old = Series::read(&env.repo)?;
    if edits(env, &base, options.into.as_deref())? == old {
        println!("our files are as series/ has them");
    }
    Ok(0)
}

/// Takes what differs from the stored series in the repository's files into the commits, stores
/// that, and says what went where; the series as it is then.
pub fn edits(env: &Env, base: &str, into: Option<&str>) -> Result<Series> {
    let (git, old) = (Git::objects(env), Series::read(&env.repo)?);
    series::unpack(env, &old)?;
    let paths = edited(env, &old)?;
    if paths.is_empty() {
        return Ok(old);
    }
    let (files, last) = (series::files(env, &old)?, old.last());
    // The content that was edited is an object of the repository, if it was ever committed there.
    for version in paths.iter().filter_map(|path| last.get(path.as_str())) {
        if git.run(&format!("cat-file -e {}", series::id(version))).is_err() {
            let repo = Git::new(env, &env.repo);
            git.store(&repo.blob(series::id(version)).context(
                "no commit of the repository has a version that series/ names: `git checkout series`, \
                 or `git fetch --unshallow` in a shallow clone",
            )?)?;
        }
    }
    let mut absorb = Absorb {
        git,
        old: &old,
        ids: series::assemble(env, base, &old)?,
        into: into.map(|what| old.find(what)).transpose()?,
        commits: old.commits.clone(),
        questions: Vec::new(),
        said: Vec::new(),
    };
    for path in paths.iter().map(String::as_str) {
        match (last.get(path), files.get(path)) {
            (Some(before), Some(after)) => absorb.edited(path, before, after)?,
            (None, Some(_)) if absorb.git.run(&format!("cat-file -e {base}:{path}")).is_ok() => {
                absorb.questions.push(format!("{path} is a file of the kernel"));
            }
            (None, Some(after)) => {
                if let Some(n) = absorb.decide(path, &BTreeSet::new()) {
                    absorb.commits[n].own.insert(path.into(), after.clone());
                }
            }
            // A deletion may be a renaming, or a checkout that has not all files.
            (_, None) => absorb.questions.push(format!("{path} is not there")),
        }
    }
    if !absorb.questions.is_empty() {
        bail!(
            "files were edited, and it is not clear which commits of the series get that:\n  {}\n\
             `cargo xtask absorb --into COMMIT` puts what is not clear into one commit; `cargo xtask \
             edit` lays the commits for git",
            absorb.questions.join("\n  ")
        );
    }
    let from = absorb.ids.pop().context("series/ is empty")?;
    let ids = series::assemble(env, base, &Series { commits: absorb.commits })?;
    // What cannot be landed cannot be absorbed either.
    let new = edit::take(env, base, &ids)?;
    if new.last().iter().any(|(path, version)| files.get(*path) != Some(*version)) {
        bail!("nothing was changed: the commits would not end with the files that are here");
    }
    edit::store(env, (&old, &from), (&new, base, &ids))?;
    absorb.said.iter().for_each(|line| eprintln!("{line}"));
    Ok(new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hunks() {
        let hunk = Hunk::parse("@@ -3,2 +4 @@ int x(void)").unwrap();
        assert_eq!((hunk.old, hunk.new), ((2, 2), (3, 1)));
        let hunk = Hunk::parse("@@ -3,0 +4,2 @@").unwrap();
        assert_eq!((hunk.old, hunk.new), ((3, 0), (3, 2)));
        assert_eq!(Hunk::parse("+@@ -3,0 +4,2 @@"), None);
        let set = |list: &[usize]| list.iter().copied().collect::<BTreeSet<_>>();
        let owners = [0, 0, 0, 1, 1];
        let candidates = |old| Hunk { old, new: (0, 0) }.candidates(&owners);
        assert_eq!(candidates((1, 2)), set(&[0]));
        assert_eq!(candidates((2, 2)), set(&[0, 1]));
        assert_eq!(candidates((2, 0)), set(&[0]));
        assert_eq!(candidates((3, 0)), set(&[0, 1]));
        assert_eq!(candidates((0, 0)), set(&[0]));
        assert_eq!(candidates((5, 0)), set(&[1]));
    }

    #[test]
    fn some_hunks() {
        let (old, new) = ("a\nb\nc\n", "A\nb\nx\nc\n");
        let hunks = [Hunk { old: (0, 1), new: (0, 1) }, Hunk { old: (2, 0), new: (2, 1) }];
        assert_eq!(with_hunks(old, new, &hunks).unwrap(), new);
        assert_eq!(with_hunks(old, new, &hunks[1..]).unwrap(), "a\nb\nx\nc\n");
        assert_eq!(with_hunks(old, new, &[]).unwrap(), old);
        let lines = [Some(0), Some(1), None, Some(2)];
        assert_eq!(lines_before(&hunks[1..], 4), lines);
        let earlier = |old| Hunk { old, new: (0, 1) }.earlier(&lines).map(|hunk| hunk.old);
        assert_eq!(earlier((0, 2)), Some((0, 2)));
        assert_eq!(earlier((1, 2)), None);
        assert_eq!(earlier((3, 1)), Some((2, 1)));
        assert_eq!(earlier((2, 0)), Some((2, 0)));
        assert_eq!(earlier((4, 0)), Some((3, 0)));
    }
}
