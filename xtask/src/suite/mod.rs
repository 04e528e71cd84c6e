// SPDX-License-Identifier: GPL-2.0
//! `cargo xtask test`: the table of suites, and one verdict.

pub mod commits;
mod disassembly;
mod kunit;
mod lint;
pub mod mutants;
mod selftests;
mod style;

use crate::{
    build::Flavour::{self, Debug, Kcsan, Plain},
    env::Env,
    ktap::{Case, Outcome},
    ui,
};
use anyhow::{bail, Context, Result};
use std::{fs, process::Command};
use When::*;

#[derive(clap::Args, Default)]
pub struct Options {
    /// Also what is slow and rarely red: the debug and the KCSAN kernel, lint, disassembly.
    #[arg(long)]
    full: bool,
    /// Only the suites of this kernel.
    #[arg(long, value_enum)]
    flavour: Option<Flavour>,
    #[arg(long, value_name = "NAME", help = help_of_only())]
    only: Option<String>,
}

impl Options {
    /// The part of a selftest's name that `--only` asks for, unless `--only` names a suite.
    fn pattern(&self) -> Option<&str> {
        let is_suite = |only: &&str| SUITES.iter().any(|suite| suite.name == *only);
        self.only.as_deref().filter(|only| !is_suite(only))
    }
}

fn help_of_only() -> String {
    let names: Vec<&str> = SUITES.iter().map(|suite| suite.name).collect();
    let lines: Vec<String> = names.chunks(5).map(|names| names.join(", ")).collect();
    let lines = lines.join(",\n");
    format!("Only the selftests with NAME in their names, or one suite:\n{lines}")
}

/// When a suite runs if `--only` is not given.
#[derive(Clone, Copy)]
enum When {
    /// Without `--flavour`, or with this one.
    Always(Option<Flavour>),
    /// With `--full`, or with this `--flavour`.
    Full(Option<Flavour>),
}

struct Suite {
    name: &'static str,
    when: When,
    run: fn(&Env, &Options) -> Result<Vec<Case>>,
}

/// Every suite, in the order in which they run.
#[rustfmt::skip]
const SUITES: &[Suite] = &[
    Suite { name: "host", when: Always(None), run: |env, _| host(env) },
    Suite { name: "style", when: Always(None), run: |env, _| style::run(env) },
    Suite { name: "commits", when: Always(None), run: |env, options| commits::run(env, !options.full) },
    Suite { name: "kunit-uml", when: Always(None), run: |env, _| kunit::user_mode(env, None) },
    Suite { name: "compile-fail", when: Always(Some(Plain)), run: |env, _| selftests::compile_fail(env) },
    Suite { name: "selftests-plain", when: Always(Some(Plain)), run: |env, options| selftests::run(env, Plain, None, options) },
    Suite { name: "power-cut", when: Always(Some(Plain)), run: |env, _| selftests::power_cut(env) },
    Suite { name: "kunit-uml-voluntary", when: Full(None), run: |env, _| kunit::voluntary(env) },
    Suite { name: "lint", when: Full(None), run: |env, _| lint::run(env) },
    Suite { name: "disassembly", when: Full(None), run: |env, _| disassembly::run(env) },
    Suite { name: "kunit-debug", when: Full(Some(Debug)), run: |env, _| kunit::debug(env) },
    Suite { name: "selftests-debug", when: Full(Some(Debug)), run: |env, options| selftests::run(env, Debug, None, options) },
    Suite { name: "selftests-kcsan", when: Full(Some(Kcsan)), run: |env, options| selftests::run(env, Kcsan, Some("kcsan"), options) },
];

/// The suites that the options ask for.
fn chosen(options: &Options) -> Vec<&'static Suite> {
    let name = match options.pattern() {
        Some(_) => Some(format!("selftests-{}", options.flavour.unwrap_or(Plain).name())),
        None => options.only.clone(),
    };
    let Options { full, flavour, .. } = *options;
    let is_chosen = |suite: &&Suite| match (&name, suite.when) {
        (Some(name), _) => suite.name == name,
        (None, Always(own)) => flavour.is_none() || flavour == own,
        (None, Full(own)) => full || (flavour.is_some() && flavour == own),
    };
    SUITES.iter().filter(is_chosen).collect()
}

/// The case `name`: `command` succeeds. The output of a command that fails is shown.
fn command(name: impl Into<String>, mut command: Command) -> Result<Case> {
    let name = name.into();
    let out = command.output()?;
    if !out.status.success() {
        let text = [out.stdout, out.stderr].concat();
        eprint!("--- {name}:\n{}", String::from_utf8_lossy(&text));
    }
    Ok(Case::of(name, out.status.success()))
}

/// Unit tests of xtask itself.
fn host(env: &Env) -> Result<Vec<Case>> {
    ui::step("host tests", |_| {
        let mut cargo = Command::new(std::env::var("CARGO").unwrap_or("cargo".into()));
        cargo.args(["test", "--package", "xtask"]).current_dir(&env.repo);
        Ok(vec![command("host tests", cargo)?])
    })
}

/// The failure that a report in a kernel log is.
fn log_case(splat: &str) -> Case {
    eprintln!("--- in the kernel log:\n{splat}\n---");
    let first = splat.lines().take(3).collect::<Vec<_>>().join(" ");
    Case::fail(format!("kernel log: {first}"))
}

/// A failure for each of `names` without a case that begins with the name.
fn not_run<'a>(names: impl IntoIterator<Item = &'a String>, cases: &[Case]) -> Vec<Case> {
    let ran = |name: &str| cases.iter().any(|case| case.name.starts_with(&format!("{name}: ")));
    let missing = names.into_iter().filter(|name| !ran(name));
    missing.map(|name| Case::fail(format!("{name} did not run"))).collect()
}

/// Whether `skips`, lines of "suite: test: reason", has a reason for a skip.
fn is_listed(skips: &str, suite: &str, test: &str) -> bool {
    let start = format!("{suite}: {test}: ");
    let has_reason = |reason: &str| !reason.trim().is_empty();
    skips.lines().any(|line| line.strip_prefix(&start).is_some_and(has_reason))
}

/// The results of a suite. A suite that ran no test or could not be run has failed, and so has a
/// test with a skip that is not listed.
fn judged(suite: &str, result: Result<Vec<Case>>, skips: &str) -> Vec<Case> {
    let error = |error| vec![Case::of_result("could not be run", Err(error))];
    let mut cases = result.unwrap_or_else(error);
    if cases.is_empty() {
        cases.push(Case::fail("no test ran"));
    }
    for case in &mut cases {
        if case.outcome == Outcome::Skip && !is_listed(skips, suite, &case.name) {
            *case = Case::fail(format!("{}: a skip not listed in xtask/skips", case.name));
        }
    }
    cases
}

pub fn run(env: &Env, options: &Options) -> Result<i32> {
    let suites = chosen(options);
    if suites.is_empty() {
        bail!("no suite runs on this kernel");
    }
    let run = |suite: &Suite| (suite.name, (suite.run)(env, options));
    judge(env, suites.into_iter().map(run).collect())
}

/// Prints the verdict on what suites gave; the status to exit with.
fn judge(env: &Env, suites: Vec<(&'static str, Result<Vec<Case>>)>) -> Result<i32> {
    let skips = fs::read_to_string(env.repo.join("xtask/skips"));
    let skips = skips.context("cannot read xtask/skips")?;
    let mut results = Vec::new();
    for (suite, result) in suites {
        results.extend(judged(suite, result, &skips).into_iter().map(|case| (suite, case)));
    }
    ui::print_times();
    eprintln!();
    for (suite, case) in &results {
        match case.outcome {
            Outcome::Fail => println!("FAILED {suite}: {}", case.name),
            Outcome::Skip => println!("skipped {suite}: {}", case.name),
            Outcome::Pass => {}
        }
    }
    let count = |outcome| results.iter().filter(|(_, c)| c.outcome == outcome).count();
    let [passed, failed, skipped] = [Outcome::Pass, Outcome::Fail, Outcome::Skip].map(count);
    println!("{passed} passed, {failed} failed, {skipped} skipped");
    Ok((failed > 0 || passed == 0) as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The names of the suites that run, in one line.
    fn names(full: bool, flavour: Option<Flavour>, only: Option<&str>) -> String {
        let options = Options { full, flavour, only: only.map(str::to_string) };
        chosen(&options).iter().map(|suite| suite.name).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn what_runs_when() {
        let both = "host style commits kunit-uml compile-fail selftests-plain power-cut";
        let full =
            "kunit-uml-voluntary lint disassembly kunit-debug selftests-debug selftests-kcsan";
        assert_eq!(names(false, None, None), both);
        assert_eq!(names(true, None, None), format!("{both} {full}"));
        for (flavour, suites) in [
            (Plain, "compile-fail selftests-plain power-cut"),
            (Debug, "kunit-debug selftests-debug"),
            (Kcsan, "selftests-kcsan"),
            (Flavour::Without, ""),
        ] {
            assert_eq!(names(false, Some(flavour), None), suites);
        }
    }

    #[test]
    fn only_names_a_suite_or_a_script() {
        for suite in SUITES {
            assert_eq!(names(false, None, Some(suite.name)), suite.name, "a name twice");
        }
        assert_eq!(names(true, None, Some("lint")), "lint");
        assert_eq!(names(false, None, Some("attach_01")), "selftests-plain");
        assert_eq!(names(false, Some(Debug), Some("attach")), "selftests-debug");
    }

    #[test]
    fn no_test_and_unlisted_skips_are_red() {
        let skip = |name| Ok(vec![Case::new(name, Outcome::Skip)]);
        for (suite, result, failures) in [
            ("a", Ok(vec![Case::of("t", true)]), 0),
            ("a", Ok(vec![]), 1),
            ("a", skip("t"), 0),
            ("a", skip("u"), 1),
            ("b", skip("t"), 1),
            ("a", Err(anyhow::anyhow!("no")), 1),
        ] {
            let mut cases = judged(suite, result, "a: t: no such hardware\na: u: \n");
            cases.retain(|case| case.outcome == Outcome::Fail);
            assert_eq!(cases.len(), failures);
        }
    }

    #[test]
    fn what_did_not_run_is_named() {
        let names = ["a.sh".to_string(), "b.sh".to_string()];
        let missing = not_run(&names, &[Case::of("b.sh: C1: x", true)]);
        assert_eq!(missing, [Case::fail("a.sh did not run")]);
    }
}
