// SPDX-License-Identifier: GPL-2.0
//! Results of the kselftest runner.
//!
//! The kernel's own KTAP parser, `tools/testing/kunit/kunit_parser.py`, reads the results of KUnit.
//! For the selftests `kunit_parser.py` would find only one result a script: runner.sh puts "# "
//! before each line of a script, which turns the results into diagnostics.

use anyhow::Result;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Pass,
    Fail,
    Skip,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    pub name: String,
    pub outcome: Outcome,
}

impl Case {
    pub fn new(name: impl Into<String>, outcome: Outcome) -> Self {
        Self { name: name.into(), outcome }
    }

    pub fn of(name: impl Into<String>, passed: bool) -> Self {
        let outcome = if passed { Outcome::Pass } else { Outcome::Fail };
        Self::new(name, outcome)
    }

    pub fn fail(name: impl Into<String>) -> Self {
        Self::of(name, false)
    }

    /// A failure if `result` is an error, which is printed.
    pub fn of_result(name: impl Into<String>, result: Result<()>) -> Self {
        if let Err(error) = &result {
            eprintln!("{error:#}");
        }
        Self::of(name, result.is_ok())
    }
}

/// "ok 3 name # SKIP" or "not ok 3 name".
fn result(line: &str) -> Option<Case> {
    let (good, rest) = line.strip_prefix("not ").map_or((true, line), |rest| (false, rest));
    let rest = rest.strip_prefix("ok ")?;
    let (number, name) = rest.split_once(' ').unwrap_or((rest, ""));
    number.parse::<u32>().ok()?;
    let (name, directive) = name.split_once(" # ").unwrap_or((name, ""));
    if good && directive.starts_with("SKIP") {
        return Some(Case::new(name.trim(), Outcome::Skip));
    }
    Some(Case::of(name.trim(), good))
}

fn plan(line: &str) -> Option<usize> {
    line.strip_prefix("1..")?.split(' ').next()?.parse().ok()
}

/// The results of one program, on its own.
pub fn program(output: &str) -> Vec<Case> {
    let mut cases: Vec<Case> = output.lines().filter_map(result).collect();
    let planned = output.lines().find_map(plan);
    if planned != Some(cases.len()) {
        let planned = planned.unwrap_or(0);
        cases.push(Case::fail(format!("ran {} of {planned} tests", cases.len())));
    }
    cases
}

/// All checks of all scripts. A script that ran fewer checks than planned, or failed without a
/// failed check, adds a failure.
pub fn selftests(output: &str) -> Vec<Case> {
    let mut cases = Vec::new();
    let mut extend = |script: &str, inner: Vec<Case>| {
        let name = |case: &Case| format!("{script}: {}", case.name);
        cases.extend(inner.iter().map(|case| Case::new(name(case), case.outcome)));
    };
    let (mut outer_plan, mut scripts, mut text) = (None, 0, String::new());
    for line in output.lines().map(str::trim_end) {
        if let Some(line) = line.strip_prefix("# ") {
            text += &format!("{line}\n");
        } else if let Some(script) = result(line) {
            scripts += 1;
            let mut inner = program(&text);
            let has_failed = |case: &Case| case.outcome == Outcome::Fail;
            if inner.is_empty() {
                inner.push(Case::new("skipped", Outcome::Skip));
            } else if has_failed(&script) && !inner.iter().any(has_failed) {
                inner.push(Case::fail("failed after its tests, or timed out"));
            }
            extend(script.name.rsplit(": ").next().unwrap_or(""), inner);
            text.clear();
        } else if outer_plan.is_none() {
            outer_plan = plan(line);
        }
    }
    let rest: Vec<Case> = text.lines().filter_map(result).collect();
    if !rest.is_empty() || outer_plan != Some(scripts) {
        let running = text.lines().find_map(|line| line.strip_prefix("selftests: blkfilter: "));
        extend(running.unwrap_or("?"), rest);
        let planned = outer_plan.unwrap_or(0);
        cases.push(Case::fail(format!("the run ended after {scripts} of {planned} scripts")));
    }
    cases
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_on_its_own() {
        let cases = program("TAP version 13\n1..2\nok 1 a: b\nnot ok 2 c\n# why\n");
        assert_eq!(cases, [Case::of("a: b", true), Case::fail("c")]);
        assert_eq!(program("1..2\nok 1 a\n").len(), 2);
        assert_eq!(program("")[0].outcome, Outcome::Fail);
    }

    const GOOD: &str = "\
TAP version 13
1..2
# timeout set to 300
# selftests: blkfilter: test_a.sh
# TAP version 13
# 1..2
# ok 1 C6: attach
# ok 2 C7: detach # SKIP no disk
# # Totals: pass:1
ok 1 selftests: blkfilter: test_a.sh
# timeout set to 300
# selftests: blkfilter: test_b.sh
# TAP version 13
# 1..1
# not ok 1 C9: late call
# # failed: eq 1 0
not ok 2 selftests: blkfilter: test_b.sh # exit=1
";

    #[test]
    fn each_check_counts() {
        let cases = selftests(GOOD);
        assert_eq!(cases.len(), 3);
        assert_eq!(cases[1], Case::new("test_a.sh: C7: detach", Outcome::Skip));
    }

    #[test]
    fn what_is_red() {
        const C9: &str = "test_b.sh: C9: late call";
        let of_a = "# ok 1 C6: attach\n# ok 2 C7: detach # SKIP no disk\n# # Totals: pass:1\nok";
        let bail_out = GOOD.replace(of_a, "# Bail out!  cannot load rust_blkfilter\nnot ok");
        let (cut, _) = GOOD.split_once("# # failed").unwrap();
        let silent = "1..1\nok 1 selftests: blkfilter: test_a.sh\n";
        let timeout =
            "1..1\n# 1..1\n# ok 1 a\nnot ok 1 selftests: blkfilter: test_a.sh # TIMEOUT\n";
        for (output, failures) in [
            (GOOD, &[C9][..]),
            (&bail_out, &["test_a.sh: ran 0 of 2 tests", C9]),
            (cut, &[C9, "the run ended after 1 of 2 scripts"]),
            ("", &["the run ended after 0 of 0 scripts"]),
            (silent, &["test_a.sh: ran 0 of 0 tests"]),
            (timeout, &["test_a.sh: failed after its tests, or timed out"]),
        ] {
            let mut failed = selftests(output);
            failed.retain(|case| case.outcome == Outcome::Fail);
            assert_eq!(failed, failures.iter().map(|name| Case::fail(*name)).collect::<Vec<_>>());
        }
    }
}
