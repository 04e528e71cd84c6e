// SPDX-License-Identifier: GPL-2.0
//! Each commit of the series on its own, since a bisection can stop there and a maintainer may take
//! only the first ones: each builds, with and without filters, passes checkpatch, and names nothing
//! that a later commit brings.

use super::{command as checked, judge};
use crate::{
    build::{self, Build, MODULES},
    env::{hash, remove_all, Env},
    ktap::{Case, Outcome},
    series::{self, Commit, Index},
    ui,
};
use anyhow::{Context, Result};
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

/// The text of our files, and of the kernel's Kconfig files that the series changes, after a commit.
type Tree = BTreeMap<String, String>;

/// Reads the trees of all commits.
fn trees(env: &Env, commits: &[Commit], ids: &[String]) -> Result<Vec<Tree>> {
    let is_kconfig = |line: &str| line.rsplit('/').next().unwrap_or("").starts_with("Kconfig");
    let changed = commits.iter().flat_map(|commit| commit.diff.lines());
    let kconfigs: BTreeSet<&str> = changed
        .filter_map(|line| line.strip_prefix("+++ b/"))
        .filter(|path| is_kconfig(path))
        .collect();
    // One object after the other, as `git cat-file --batch` gives them.
    let (mut objects, mut places) = (String::new(), Vec::new());
    let mut own = BTreeMap::new();
    for (n, (commit, id)) in commits.iter().zip(ids).enumerate() {
        for (path, version) in &commit.own {
            match version {
                Some(version) => own.insert(path.clone(), version.id.clone()),
                None => own.remove(path),
            };
        }
        for (path, blob) in &own {
            objects += &format!("{blob}\n");
            places.push((n, path.clone()));
        }
        for path in &kconfigs {
            objects += &format!("{id}:{path}\n");
            places.push((n, path.to_string()));
        }
    }
    let all = Index::new(env).feed(&["cat-file", "--batch"], objects.as_bytes())?;
    let mut trees = vec![Tree::new(); commits.len()];
    let mut rest = &all[..];
    for (n, path) in places {
        // "ID blob SIZE", a line break, the content, a line break.
        let end = rest.iter().position(|byte| *byte == b'\n');
        let (head, content) = rest.split_at(end.context("git gave too little")? + 1);
        let size = std::str::from_utf8(head)?.trim().rsplit(' ').next();
        let size: usize = size.unwrap_or_default().parse().context("git has no such file")?;
        let text = String::from_utf8_lossy(&content[..size]).into_owned();
        trees[n].insert(path, text);
        rest = &content[size + 1..];
    }
    Ok(trees)
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    let words = text.split(move |c| !is_part(c));
    words.map(|word| word.trim_matches(['.', '-'])).filter(|word| word.len() > 2)
}

/// What a selftest can refer to: our files and modules, configuration options, and names in string
/// literals of the core and of the test filters, such as attributes and modes.
fn names(tree: &Tree) -> BTreeSet<&str> {
    let mut names = BTreeSet::new();
    for (path, text) in tree {
        let (directory, file) = path.rsplit_once('/').unwrap_or(("", path));
        let (stem, end) = file.rsplit_once('.').unwrap_or((file, ""));
        let is_source = ["c", "h", "rs"].contains(&end);
        if path.starts_with(SELFTESTS) {
            names.insert(file);
        }
        if file.starts_with("Kconfig") {
            names.extend(text.lines().filter_map(|line| line.strip_prefix("config ")));
        } else if is_source && !directory.ends_with("compile_fail") {
            names.insert(stem);
            if path.starts_with("samples/") {
                continue;
            }
            let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
            let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
            let literals = code.flat_map(|line| line.split('"').skip(1).step_by(2));
            names.extend(literals.filter(|name| name.len() > 2 && name.chars().all(is_name)));
        }
    }
    names
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

/// What is wrong with the selftests and the MAINTAINERS entry as they are after commit `n`.
fn too_early(commits: &[Commit], trees: &[Tree], n: usize) -> Vec<String> {
    let (tree, mut problems) = (&trees[n], Vec::new());
    let (now, at_end) = (names(tree), names(&trees[trees.len() - 1]));
    let later: BTreeSet<&str> = at_end.difference(&now).copied().collect();
    for (path, text) in tree.iter().filter(|(path, _)| path.starts_with(SELFTESTS)) {
        let file = &path[SELFTESTS.len()..];
        let is_script = [".sh", ".py"].iter().any(|end| file.ends_with(end));
        if !is_script && file != "config" && file != "Makefile" {
            continue;
        }
        let used: BTreeSet<&str> = text.lines().map(code).flat_map(words).collect();
        for word in used {
            let name = word.strip_prefix("CONFIG_").unwrap_or(word);
            // In Python a plain word may be anything.
            let is_name = !file.ends_with(".py") || name.contains(['_', '.']);
            if is_name && later.contains(name) {
                let brings = (n..trees.len()).find(|at| names(&trees[*at]).contains(name));
                let brings = &commits[brings.unwrap_or(n)].name;
                problems.push(format!("{file} names {word}, which comes with {brings}"));
            }
        }
        let numbered = |name: &str| {
            let number = name.strip_prefix("test_")?.strip_suffix(".sh")?.rsplit_once('_')?.1;
            number.parse::<u32>().ok()
        };
        let makefile = tree.get(&format!("{SELFTESTS}Makefile"));
        let is_listed = |makefile: &String| words(makefile).any(|word| word == file);
        if numbered(file).is_some() && !makefile.is_some_and(is_listed) {
            problems.push(format!("{file} is not in the Makefile"));
        }
    }
    let entry = commits[..=n].iter().flat_map(|commit| commit.diff.lines());
    for pattern in entry.filter_map(|line| line.strip_prefix("+F:\t")) {
        let start = pattern.split('*').next().unwrap_or_default();
        if !tree.keys().any(|path| path.starts_with(start)) {
            problems.push(format!("MAINTAINERS: no file is {pattern}"));
        }
    }
    problems
}

/// All that a build of our part depends on after each commit, as text.
fn sources(commits: &[Commit]) -> Vec<String> {
    let is_built = |path: &str| {
        let is_text = [".sh", ".py", ".rst"].iter().any(|end| path.ends_with(end));
        !is_text && !path.contains("/compile_fail/") && !path.starts_with("Documentation/")
    };
    let (mut own, mut diffs) = (BTreeMap::new(), String::new());
    let mut sources = Vec::new();
    for commit in commits {
        own.extend(commit.own.iter().filter(|(path, _)| is_built(path)));
        let mut changed = commit.diff.lines().filter_map(|line| line.strip_prefix("+++ b/"));
        if changed.any(|path| is_built(path) && path != "MAINTAINERS") {
            diffs += &commit.diff;
        }
        sources.push(format!("{own:?}{diffs}"));
    }
    sources
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
        if with == "y" && build.source.join(MODULES).exists() {
            let [from, to, modpost] = [
                format!("M={MODULES}"),
                format!("MO={}/test_modules", build.dir.display()),
                // What was not linked has no list of symbols for modpost.
                format!("KBUILD_MODPOST_WARN={}", if quick { "1" } else { "" }),
            ];
            build.make(&[&from, &to, &modpost, "modules"], "commits", step)?;
        }
        Ok(())
    })
}

/// Checks that passed before, by what they checked.
struct Passed<'a> {
    env: &'a Env,
    keys: BTreeSet<String>,
}

impl<'a> Passed<'a> {
    fn read(env: &'a Env) -> Self {
        let text = fs::read_to_string(env.dir("commits-passed")).unwrap_or_default();
        let keys = text.lines().map(str::to_string).collect();
        Self { env, keys }
    }

    /// Does a check unless it passed before with the same input.
    fn or(
        &mut self,
        input: &impl Hash,
        name: &str,
        check: impl FnOnce() -> Result<Case>,
    ) -> Result<Case> {
        let key = format!("{:016x}", hash(input));
        if self.keys.contains(&key) {
            return Ok(Case::of(name, true));
        }
        let case = check()?;
        if case.outcome == Outcome::Pass {
            self.keys.insert(key);
            let text: String = self.keys.iter().map(|key| format!("{key}\n")).collect();
            fs::write(self.env.dir("commits-passed"), text)?;
        }
        Ok(case)
    }
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
    let mut passed = Passed::read(env);
    ui::step("checkpatch, and names that come too early", |_| {
        let dir = env.cache.join("checkpatch");
        remove_all(&dir)?;
        let patches = series::write(env, &dir, 1)?;
        let trees = trees(env, commits, &ids)?;
        for (n, commit) in commits.iter().enumerate() {
            let patch = dir.join(&patches[n + 1]);
            let name = format!("{}: checkpatch", commit.name);
            let text = fs::read_to_string(&patch)?;
            // The first line has the id, which depends on the commits before.
            let text = text.split_once('\n').map(|(_, text)| text);
            let case = passed.or(&(CHECKPATCH, text), &name, || {
                let mut checkpatch = env.tool_in(&env.linux(), "scripts/checkpatch.pl", &[]);
                checkpatch.args(CHECKPATCH.split(' ')).arg(patch);
                checked(name.clone(), checkpatch)
            })?;
            cases.push(case);
            let problems = too_early(commits, &trees, n);
            for problem in &problems {
                eprintln!("{}: {problem}", commit.name);
            }
            let name = format!("{}: names nothing that comes later", commit.name);
            cases.push(Case::of(name, problems.is_empty()));
        }
        Ok(())
    })?;

    let fragment = build::fragment(env, &["commits"])?;
    for with in ["y", "n"] {
        for (n, sources) in sources(commits).into_iter().enumerate() {
            let name = format!("{}: builds with CONFIG_BLK_FILTER={with}", commits[n].name);
            let input = (&base, &fragment, with, quick, QUICK, &sources);
            cases.push(passed.or(&input, &name, || {
                let built = build(env, with, &ids[n], quick);
                Ok(Case::of_result(name.clone(), built))
            })?);
        }
    }
    Ok(cases)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &str)]) -> Tree {
        let file = |(path, text): &(&str, &str)| (path.to_string(), text.to_string());
        files.iter().map(file).collect()
    }

    fn commit(name: &str, diff: &str) -> Commit {
        Commit {
            name: name.into(),
            message: String::new(),
            own: BTreeMap::new(),
            diff: diff.into(),
        }
    }

    #[test]
    fn names_that_come_too_early() {
        let script = "tools/testing/selftests/blkfilter/test_a_01.sh";
        let config = "tools/testing/selftests/blkfilter/config";
        let makefile = ("tools/testing/selftests/blkfilter/Makefile", "TEST_PROGS += test_a_01.sh");
        let first = [
            ("block/x.c", "a = \"seen\";"),
            (script, "echo hook > x # late\n# late\ncheck \"a late b\" cat seen"),
            (config, "CONFIG_LATE=y"),
            makefile,
        ];
        let mut last = first.to_vec();
        last.push(("block/y.c", "a = \"hook\", b = \"late\";"));
        last.push(("block/Kconfig.y", "config LATE\n"));
        let trees = [tree(&first), tree(&last)];
        let entry = "+++ b/MAINTAINERS\n+F:\tblock/x*\n+F:\tblock/y.c\n";
        let commits = [commit("one", entry), commit("two", "")];
        assert_eq!(
            too_early(&commits, &trees, 0),
            [
                "config names CONFIG_LATE, which comes with two",
                "test_a_01.sh names hook, which comes with two",
                "MAINTAINERS: no file is block/y.c",
            ]
        );
        assert!(too_early(&commits, &trees, 1).is_empty());
        let unlisted = [tree(&first[..3])];
        assert_eq!(too_early(&commits[1..], &unlisted, 0).len(), 1);
    }

    #[test]
    fn documentation_needs_no_build() {
        let mut commits = vec![commit("one", "+++ b/block/x.c\n+x\n"); 3];
        commits[1].diff = "+++ b/Documentation/index.rst\n+x\n".into();
        let sources = sources(&commits);
        assert!(sources[0] == sources[1] && sources[1] != sources[2]);
    }
}
