// SPDX-License-Identifier: GPL-2.0
//! Each commit of the series on its own, since a bisection can stop there and a maintainer may take
//! only the first ones: each builds, with and without filters, passes checkpatch, and names nothing
//! that a later commit brings.

use super::{command as checked, judge};
use crate::{
    build::{self, Build, MODULES},
    env::{hash, names_in, remove_all, Env},
    git::Git,
    ktap::{Case, Outcome},
    series::{self, Commit, Series},
    ui,
};
use anyhow::Result;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    hash::Hash,
};

const SELFTESTS: &str = "tools/testing/selftests/blkfilter/";

/// Sign-offs are left to the person who posts the patches; MAINTAINERS comes in a patch of its own;
/// `Kconfig.blkfilter` has a `Kconfig` in its name; the environment of a uevent is not const; flags
/// look like their neighbours; macros of trace events are laid out as in other trace headers.
const CHECKPATCH: &str =
    "--strict --no-signoff --show-types --ignore=FILE_PATH_CHANGES,EMBEDDED_FILENAME,\
    STATIC_CONST_CHAR_ARRAY,BIT_MACRO,OPEN_ENDED_LINE,PARENTHESIS_ALIGNMENT";

/// What the quick form builds: the directories and objects that the series is about. The full form
/// builds and links all, modules included.
const QUICK: [&str; 3] = ["block/", "drivers/md/dm.o", "samples/rust/"];

/// The lines that `git grep` finds in `paths` after commit `id`.
fn grep(
    git: &Git,
    how: &str,
    patterns: &[&str],
    id: &str,
    paths: Vec<&str>,
) -> Result<Vec<String>> {
    if paths.is_empty() || patterns.is_empty() {
        return Ok(Vec::new());
    }
    let found = git.find(&format!("grep {how}"), &[patterns, &[id, "--"], &paths].concat())?;
    Ok(found.lines().map(str::to_string).collect())
}

/// What a selftest can refer to after commit `n`: our files and modules, configuration options, and
/// names in string literals, such as attributes and modes. `all` takes the literals of samples and of
/// modules in Rust too, which have many plain words: good to know that a name is there already.
fn names(git: &Git, series: &Series, n: usize, id: &str, all: bool) -> Result<BTreeSet<String>> {
    let own = series.after(n + 1);
    let is_ours = |path: &str| path.starts_with("block/") || path.contains("/test_modules/");
    let is_c = |path: &str| path.ends_with(".c") || path.ends_with(".h");
    let is_source = |path: &&&str| is_c(path) && is_ours(path) || all && path.ends_with(".rs");
    let sources = own.keys().filter(is_source).copied().collect();
    let literals = grep(git, "-ohE", &["\"[a-z0-9_]{3,}\""], id, sources)?;
    let upstream = series.commits[..=n].iter().flat_map(Commit::upstream);
    let kconfigs = upstream.chain(own.keys().copied()).filter(|path| path.contains("/Kconfig"));
    let options = grep(git, "-hE", &["^config "], id, kconfigs.collect())?;
    let mut names: BTreeSet<String> =
        options.iter().map(|line| line.replace("config ", "CONFIG_")).collect();
    names.extend(literals.iter().map(|literal| literal.trim_matches('"').to_string()));
    for path in own.keys() {
        names.extend(path.strip_prefix(SELFTESTS).map(str::to_string));
        let file = path.rsplit('/').next().unwrap_or_default();
        if path.contains("/test_modules/") || path.starts_with("samples/") {
            names.extend(file.split_once('.').map(|(module, _)| module.to_string()));
        }
    }
    Ok(names)
}

/// A line of a script without its prose: comments, what a check says, diagnostics.
fn code(line: &str) -> &str {
    let line = line.trim_start();
    if let Some(title) = ["check \"", "bail \""].iter().find_map(|start| line.strip_prefix(start)) {
        return title.split_once('"').map_or("", |(_, code)| code);
    }
    match ["#", "echo \"#"].iter().any(|start| line.starts_with(start)) {
        true => "",
        false => line.split(" # ").next().unwrap_or_default(),
    }
}

/// What is wrong with the selftests and the MAINTAINERS entry after each commit.
pub fn too_early(env: &Env, series: &Series, ids: &[String]) -> Result<Vec<BTreeSet<String>>> {
    let git = &Git::objects(env);
    let after = |(n, id): (usize, &String)| names(git, series, n, id, false);
    let all = ids.iter().enumerate().map(after).collect::<Result<Vec<_>>>()?;
    let is_script = |path: &&&str| {
        let file = path.strip_prefix(SELFTESTS).unwrap_or_default();
        file.ends_with(".sh") || ["config", "Makefile", "compile_fail.py"].contains(&file)
    };
    let problems = |(n, id): (usize, &String)| {
        let (own, mut problems) = (series.after(n + 1), BTreeSet::new());
        let there = names(git, series, n, id, true)?;
        let later: Vec<&str> = all[all.len() - 1].difference(&there).map(String::as_str).collect();
        let patterns: Vec<&str> = later.iter().flat_map(|name| ["-e", name]).collect();
        let scripts = own.keys().filter(is_script).copied().collect();
        for line in grep(git, "-wF", &patterns, id, scripts)? {
            let [_, path, text] = line.splitn(3, ':').collect::<Vec<_>>()[..] else { continue };
            let is_part = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
            for word in code(text).split(|c| !is_part(c)).filter(|word| later.contains(word)) {
                let brings = (n..all.len()).find(|at| all[*at].contains(word)).unwrap_or(n);
                let (file, brings) = (&path[SELFTESTS.len()..], &series.commits[brings].name);
                // In Python a plain word may be anything.
                if !file.ends_with(".py") || word.contains('_') {
                    problems.insert(format!("{file} names {word}, which comes with {brings}"));
                }
            }
        }
        let entry = series.commits[..=n].iter().flat_map(|commit| commit.diff.lines());
        for pattern in entry.filter_map(|line| line.strip_prefix("+F:\t")) {
            let start = pattern.split('*').next().unwrap_or_default();
            if !own.keys().any(|path| path.starts_with(start)) {
                problems.insert(format!("MAINTAINERS: no file is {pattern}"));
            }
        }
        Ok(problems)
    };
    ids.iter().enumerate().map(problems).collect()
}

/// All that a build of our part depends on after each commit, as text. Without filters nothing of
/// ours in C is built, nor what needs filters.
fn sources(commits: &[Commit], with: &str) -> Vec<String> {
    let is_text = |path: &str| [".sh", ".py", ".rst"].iter().any(|end| path.ends_with(end));
    let elsewhere = ["Documentation/", "MAINTAINERS"];
    let optional = ["samples/", "tools/", "block/blk-filter-", "block/blk-filter.c"];
    let is_built = |path: &str| {
        let starts = |list: &[&str]| list.iter().any(|start| path.starts_with(start));
        let is_out = starts(&elsewhere) || with == "n" && starts(&optional);
        !is_text(path) && !is_out && !path.contains("/compile_fail/")
    };
    let (mut own, mut diffs) = (BTreeMap::new(), String::new());
    let after = commits.iter().map(|commit| {
        own.extend(commit.own.iter().filter(|(path, _)| is_built(path)));
        if commit.upstream().any(is_built) {
            diffs += &commit.diff;
        }
        format!("{own:?}{diffs}")
    });
    after.collect()
}

/// Builds a commit for user mode with all options that the commit has. Warnings are errors.
fn build(env: &Env, with: &str, id: &str, quick: bool) -> Result<()> {
    let fragment = build::fragment(env, &["commits"])?;
    let mut build = Build::user_mode(env, &format!("commits-{with}"));
    build.source = build::worktree(env, "commits", id)?;
    let name = format!("build {} with CONFIG_BLK_FILTER={with}", &id[..12]);
    ui::step(&name, |step| {
        // Each commit has other options, and is configured anew because the text has its id.
        let option = format!("CONFIG_BLK_FILTER={with}");
        build.configure_what_is_there(&format!("# {id}\n{fragment}{option}\n"), step)?;
        let what: &[&str] = if quick { &QUICK } else { &["linux", "modules"] };
        build.make(what, "commits", step)?;
        let modules = names_in(&build.source.join(MODULES)).unwrap_or_default();
        let modules = modules.iter().filter_map(|file| file.split_once('.'));
        let objects: BTreeSet<String> = modules.map(|(name, _)| format!("{name}.o")).collect();
        if with == "y" && !objects.is_empty() {
            let to = format!("MO={}/test_modules", build.dir.display());
            let mut args = vec!["M=tools/testing/selftests/blkfilter/test_modules", &to];
            match quick {
                true => args.extend(objects.iter().map(String::as_str)),
                false => args.push("modules"),
            }
            build.make(&args, "commits", step)?;
        }
        Ok(())
    })
}

/// Does a check unless it passed before with the same input.
fn once(
    env: &Env,
    input: &impl Hash,
    name: String,
    check: impl FnOnce(String) -> Result<Case>,
) -> Result<Case> {
    let mark = env.dir("commits-passed").join(format!("{:016x}", hash(input)));
    if mark.exists() {
        return Ok(Case::of(name, true));
    }
    let case = check(name)?;
    if case.outcome == Outcome::Pass {
        fs::create_dir_all(env.dir("commits-passed"))?;
        fs::write(mark, "")?;
    }
    Ok(case)
}

#[derive(clap::Args)]
pub struct Options {
    /// Build only what the series is about, and link nothing.
    #[arg(long)]
    quick: bool,
}

/// `cargo xtask commits`.
pub fn command(env: &Env, options: &Options) -> Result<i32> {
    judge(env, vec![("commits", run(env, options.quick))])
}

/// Checks every commit; `quick` builds only what the series is about, and links nothing.
pub fn run(env: &Env, quick: bool) -> Result<Vec<Case>> {
    build::prepare(env)?;
    let (series, base, ids) = series::current(env)?;
    let commits = &series.commits;
    let mut cases = Vec::new();
    ui::step("checkpatch, and names that come too early", |_| {
        let dir = env.cache.join("checkpatch");
        remove_all(&dir)?;
        let patches = series::write(env, &dir, 1)?;
        let problems = too_early(env, &series, &ids)?;
        for (n, commit) in commits.iter().enumerate() {
            let patch = dir.join(&patches[n + 1]);
            let text = fs::read_to_string(&patch)?;
            // The head of the mail has an id and a time.
            let input =
                (CHECKPATCH, &commit.message, text.split_once("\n\n").map(|(_, text)| text));
            cases.push(once(env, &input, format!("{}: checkpatch", commit.name), |name| {
                let mut checkpatch = env.tool_in(&env.linux(), "scripts/checkpatch.pl", &[]);
                checkpatch.args(CHECKPATCH.split(' ')).arg(patch);
                checked(name, checkpatch)
            })?);
            for problem in &problems[n] {
                eprintln!("{}: {problem}", commit.name);
            }
            let name = format!("{}: names nothing that comes later", commit.name);
            cases.push(Case::of(name, problems[n].is_empty()));
        }
        Ok(())
    })?;

    let fragment = build::fragment(env, &["commits"])?;
    for with in ["y", "n"] {
        for (n, sources) in sources(commits, with).into_iter().enumerate() {
            let name = format!("{}: builds with CONFIG_BLK_FILTER={with}", commits[n].name);
            let input = (&base, &fragment, with, quick, QUICK, &sources);
            cases.push(once(env, &input, name, |name| {
                Ok(Case::of_result(name, build(env, with, &ids[n], quick)))
            })?);
        }
    }
    Ok(cases)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documentation_needs_no_build() {
        let commit = |diff: &str| Commit {
            name: String::new(),
            message: String::new(),
            own: BTreeMap::new(),
            diff: format!("diff --git a/{diff} b/{diff}\n+x\n"),
        };
        let commits = ["block/x.c", "Documentation/x.rst", "MAINTAINERS", "block/x.c"].map(commit);
        let sources = sources(&commits, "y");
        assert!(sources[0] == sources[2] && sources[2] != sources[3]);
    }
}
