// SPDX-License-Identifier: GPL-2.0
//! `cargo xtask test`: the table of suites, and one verdict.

pub mod commits;
mod compile_fail;
mod disassembly;
mod host;
mod kunit;
mod lint;
pub mod mutants;
mod power_cut;
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
    /// Everything in every flavour, not only a smoke part on the debug kernel.
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
    let what = "Only the selftests with NAME in their names, or one suite";
    format!("{what}:\n{}", lines.join(",\n"))
}

/// When a suite runs if `--only` is not given.
#[derive(Clone, Copy)]
enum When {
    /// Without `--flavour`.
    Always,
    /// Without `--flavour`, or with this one.
    On(Flavour),
    /// With `--full`.
    Full,
    /// With `--full`, or with this `--flavour`.
    FullOr(Flavour),
    /// Without `--full` and without `--flavour`.
    Brief,
}

struct Suite {
    name: &'static str,
    when: When,
    run: fn(&Env, &Options) -> Result<Vec<Case>>,
}

/// Every suite, in the order in which they run.
#[rustfmt::skip]
const SUITES: &[Suite] = &[
    Suite { name: "host", when: Always, run: |env, _| host::run(env) },
    Suite { name: "style", when: Always, run: |env, _| style::run(env) },
    Suite { name: "commits", when: Always, run: |env, options| commits::run(env, !options.full) },
    Suite { name: "kunit-uml", when: Always, run: |env, _| kunit::user_mode(env) },
    Suite { name: "compile-fail", when: On(Plain), run: |env, _| compile_fail::run(env) },
    Suite { name: "selftests-plain", when: On(Plain), run: |env, options| selftests::run(env, Plain, None, options) },
    Suite { name: "power-cut", when: On(Plain), run: |env, _| power_cut::run(env) },
    Suite { name: "lint", when: Full, run: |env, _| lint::run(env) },
    Suite { name: "disassembly", when: Full, run: |env, _| disassembly::run(env) },
    Suite { name: "kunit-debug", when: FullOr(Debug), run: |env, _| kunit::debug(env) },
    Suite { name: "selftests-debug", when: FullOr(Debug), run: |env, options| selftests::run(env, Debug, None, options) },
    Suite { name: "selftests-kcsan", when: FullOr(Kcsan), run: |env, options| selftests::run(env, Kcsan, Some("kcsan"), options) },
    Suite { name: "selftests-debug-smoke", when: Brief, run: |env, options| selftests::run(env, Debug, Some("smoke"), options) },
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
        (None, Always) => flavour.is_none(),
        (None, On(own)) => flavour.is_none_or(|flavour| flavour == own),
        (None, Full) => full,
        (None, FullOr(own)) => full || flavour == Some(own),
        (None, Brief) => !full && flavour.is_none(),
    };
    SUITES.iter().filter(is_chosen).collect()
}

/// The case `name`: `command` succeeds. The output of a command that fails is shown.
fn command(name: impl Into<String>, mut command: Command) -> Result<Case> {
    let name = name.into();
    let out = command.output()?;
    if !out.status.success() {
        eprintln!("--- {name}:");
        eprint!("{}", String::from_utf8_lossy(&out.stdout));
        eprint!("{}", String::from_utf8_lossy(&out.stderr));
    }
    Ok(Case::of(name, out.status.success()))
}

/// The failure that a report in a kernel log is.
fn log_case(splat: &str) -> Case {
    eprintln!("--- in the kernel log:\n{splat}\n---");
    let first = splat.lines().take(3).collect::<Vec<_>>().join(" ");
    Case::fail(format!("kernel log: {first}"))
}

/// A failure for each of `names` without a case that begins with the name.
fn not_run<'a>(names: impl IntoIterator<Item = &'a String>, cases: &[Case]) -> Vec<Case> {
    let ran = |name: &&String| {
        let start = format!("{name}: ");
        cases.iter().any(|case| case.name.starts_with(&start))
    };
    let missing = names.into_iter().filter(|name| !ran(name));
    missing.map(|name| Case::fail(format!("{name} did not run"))).collect()
}

/// Whether `skips`, lines of "suite: test: reason", has a reason for a skip.
fn is_listed(skips: &str, suite: &str, test: &str) -> bool {
    let start = format!("{suite}: {test}: ");
    let reason = |line: &str| line.strip_prefix(&start).map(str::trim).map(str::len);
    skips.lines().filter_map(reason).any(|length| length > 0)
}

/// The results of a suite. A suite that ran no test or could not be run has failed, and so has a
/// test with a skip that is not listed.
fn judged(suite: &str, result: Result<Vec<Case>>, skips: &str) -> Vec<Case> {
    let mut cases = match result {
        Ok(cases) if cases.is_empty() => vec![Case::fail("no test ran")],
        Ok(cases) => cases,
        Err(error) => {
            eprintln!("{error:#}");
            vec![Case::fail("could not be run")]
        }
    };
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
    let skips =
        fs::read_to_string(env.repo.join("xtask/skips")).context("cannot read xtask/skips")?;
    let mut results = Vec::new();
    for (suite, result) in suites {
        let cases = judged(suite, result, &skips);
        results.extend(cases.into_iter().map(|case| (suite, case)));
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

    fn names(full: bool, flavour: Option<Flavour>, only: &str) -> Vec<&'static str> {
        let only = (!only.is_empty()).then(|| only.to_string());
        let options = Options { full, flavour, only };
        chosen(&options).iter().map(|suite| suite.name).collect()
    }

    #[test]
    fn what_runs_when() {
        let always = ["host", "style", "commits", "kunit-uml"];
        let plain = ["compile-fail", "selftests-plain", "power-cut"];
        let full = ["lint", "disassembly"];
        let debug = ["kunit-debug", "selftests-debug"];
        let kcsan = ["selftests-kcsan"];
        assert_eq!(
            names(false, None, ""),
            [&always[..], &plain, &["selftests-debug-smoke"]].concat()
        );
        assert_eq!(names(true, None, ""), [&always[..], &plain, &full, &debug, &kcsan].concat());
        assert_eq!(names(false, Some(Plain), ""), plain);
        assert_eq!(names(false, Some(Debug), ""), debug);
        assert_eq!(names(false, Some(Kcsan), ""), kcsan);
        assert!(names(false, Some(Flavour::Without), "").is_empty());
    }

    #[test]
    fn only_names_a_suite_or_a_script() {
        for suite in SUITES {
            assert_eq!(names(false, None, suite.name), [suite.name], "a name twice");
        }
        assert_eq!(names(true, None, "lint"), ["lint"]);
        assert_eq!(names(false, None, "attach_01"), ["selftests-plain"]);
        assert_eq!(names(false, Some(Debug), "attach"), ["selftests-debug"]);
    }

    #[test]
    fn no_test_and_unlisted_skips_are_red() {
        let skips = "a: t: no such hardware\na: u: \n";
        let failures = |suite: &str, cases: Vec<Case>| {
            let cases = judged(suite, Ok(cases), skips);
            cases.iter().filter(|c| c.outcome == Outcome::Fail).count()
        };
        let skip = |name| vec![Case::new(name, Outcome::Skip)];
        assert_eq!(failures("a", vec![Case::of("t", true)]), 0);
        assert_eq!(failures("a", vec![]), 1);
        assert_eq!(failures("a", skip("t")), 0);
        assert_eq!(failures("a", skip("u")), 1);
        assert_eq!(failures("b", skip("t")), 1);
        assert_eq!(judged("a", Err(anyhow::anyhow!("no")), skips).len(), 1);
    }

    #[test]
    fn what_did_not_run_is_named() {
        let names = ["a.sh".to_string(), "b.sh".to_string()];
        let missing = not_run(&names, &[Case::of("b.sh: C1: x", true)]);
        assert_eq!(missing, [Case::fail("a.sh did not run")]);
    }
}
