// SPDX-License-Identifier: GPL-2.0
//! `cargo xtask mutants`: kernels with seeded bugs, each of which a test has to catch.

use super::{kunit, selftests};
use crate::{
    build::Flavour,
    env::{names_in, Env},
    ktap::{Case, Outcome},
    ui,
};
use anyhow::{bail, Context, Result};
use std::{collections::BTreeSet, fs, path::PathBuf, slice};

#[derive(clap::Args)]
pub struct Options {
    /// Only the bugs with this in their names.
    #[arg(long, value_name = "PATTERN", default_value = "")]
    only: String,
}

/// A seeded bug, `xtask/mutants/<name>/diff`. The file `test` there has the script, or the suite and
/// case of KUnit, and the clause that have to catch the bug.
struct Mutant {
    name: String,
    dir: PathBuf,
    script: String,
    clause: String,
}

impl Mutant {
    fn is_kunit(&self) -> bool {
        !self.script.ends_with(".sh")
    }
}

fn mutants(env: &Env) -> Result<Vec<Mutant>> {
    let all = env.repo.join("xtask/mutants");
    let mutant = |name: String| {
        let dir = all.join(&name);
        let test = fs::read_to_string(dir.join("test")).unwrap_or_default();
        let test = test.trim().split_once(' ');
        let (script, clause) =
            test.with_context(|| format!("{name}/test: no script and clause"))?;
        Ok(Mutant { name, script: script.into(), clause: clause.into(), dir })
    };
    names_in(&all)?.into_iter().map(mutant).collect()
}

/// Whether a check of the script failed that names the clause, or the case of KUnit.
fn is_caught(mutant: &Mutant, cases: &[Case]) -> bool {
    let start = format!("{}: {}:", mutant.script, mutant.clause);
    let is_it = |case: &Case| {
        case.name.starts_with(&start) || (mutant.is_kunit() && case.name == mutant.script)
    };
    cases.iter().any(|case| case.outcome == Outcome::Fail && is_it(case))
}

/// Runs what has to catch the bug of `mutant`, with that or without.
fn run_one(env: &Env, mutant: &Mutant) -> Result<Vec<Case>> {
    if mutant.is_kunit() {
        return kunit::user_mode(env, Some(&mutant.dir));
    }
    let script = slice::from_ref(&mutant.script);
    selftests::in_guests(env, Flavour::Plain, script, false, Some(&mutant.dir))
}

/// Builds the kernel with each seeded bug; the bug's test has to fail there, and to pass without
/// the bug.
pub fn run(env: &Env, options: &Options) -> Result<i32> {
    let mut mutants = mutants(env)?;
    mutants.retain(|mutant| mutant.name.contains(&options.only));
    if mutants.is_empty() {
        bail!("no seeded bug has {} in its name", options.only);
    }
    let (kunit, scripts): (Vec<&Mutant>, Vec<&Mutant>) = mutants.iter().partition(|m| m.is_kunit());
    let scripts: BTreeSet<String> = scripts.iter().map(|m| m.script.clone()).collect();
    let scripts = Vec::from_iter(scripts);
    let mut cases = Vec::new();
    if !kunit.is_empty() {
        cases.extend(kunit::user_mode(env, None)?);
    }
    if !scripts.is_empty() {
        cases.extend(selftests::in_guests(env, Flavour::Plain, &scripts, false, None)?);
    }
    cases.retain(|case| case.outcome != Outcome::Pass);
    if !cases.is_empty() {
        bail!("the tests do not pass without a seeded bug: {cases:?}");
    }
    let mut count = 0;
    for mutant in &mutants {
        eprintln!("--- {}", mutant.name);
        let cases = run_one(env, mutant);
        let caught = cases.map(|cases| is_caught(mutant, &cases)).unwrap_or_else(|error| {
            eprintln!("{error:#}");
            false
        });
        count += caught as usize;
        let verdict = if caught { "caught" } else { "NOT CAUGHT" };
        println!("{verdict}: {}, by {} {}", mutant.name, mutant.script, mutant.clause);
    }
    ui::print_times();
    println!("caught {count}/{}", mutants.len());
    Ok((count < mutants.len()) as i32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::Toolchain;

    #[test]
    fn a_mutant_is_caught_by_its_clause_only() {
        let [name, script, clause] = ["x", "test_a.sh", "C7"].map(String::from);
        let mutant = Mutant { name, dir: PathBuf::new(), script, clause };
        let caught = |name: &str, ok| is_caught(&mutant, &[Case::of(name, ok)]);
        assert!(caught("test_a.sh: C7: x", false));
        assert!(!caught("test_a.sh: C7: x", true));
        assert!(!caught("test_a.sh: C71: x", false));
        assert!(!caught("test_b.sh: C7: x", false));
        assert!(!is_caught(&mutant, &[]));

        let [name, script, clause] = ["x", "suite.test_a", "C7"].map(String::from);
        let mutant = Mutant { name, dir: PathBuf::new(), script, clause };
        assert!(is_caught(&mutant, &[Case::of("suite.test_a", false)]));
        assert!(!is_caught(&mutant, &[Case::of("suite.test_a", true)]));
        assert!(!is_caught(&mutant, &[Case::of("suite.test_ab", false)]));
    }

    #[test]
    fn every_mutant_has_a_diff_and_a_script() {
        let env = Env::new(Toolchain::Host, None).unwrap();
        let all = selftests::scripts(&env).unwrap();
        for mutant in mutants(&env).unwrap() {
            let tests = fs::read_to_string(env.repo.join("block/blk-filter-test.c")).unwrap();
            let is_case = |name: &str| tests.contains(&format!("KUNIT_CASE({name})"));
            let there = match mutant.script.split_once('.') {
                Some((_, name)) if mutant.is_kunit() => is_case(name),
                _ => all.contains(&mutant.script),
            };
            assert!(there, "{}", mutant.name);
            assert!(mutant.dir.join("diff").exists(), "{}", mutant.name);
        }
    }
}
