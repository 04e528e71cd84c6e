// SPDX-License-Identifier: GPL-2.0
//! `cargo xtask test`: every suite, and one verdict.

use crate::{
    build::{self, Flavour},
    env::Env,
    ktap::{self, Case, Outcome},
    qemu, ui,
};
use anyhow::{bail, Context, Result};
use std::{
    fs,
    process::Command,
    time::{Duration, Instant},
};

/// Results so far.
struct Report<'a> {
    env: &'a Env,
    cases: Vec<(String, Case)>,
    /// Whether the number of tests is compared with the one checked in.
    count: bool,
}

impl Report<'_> {
    fn fail(&mut self, suite: &str, name: impl Into<String>) {
        let case = Case {
            name: name.into(),
            outcome: Outcome::Fail,
        };
        self.cases.push((suite.into(), case));
    }

    /// Takes the results of a suite, and fails what should not be: too few tests, too many (the
    /// number has to be written down), a skip that is not listed.
    fn add(&mut self, suite: &str, cases: Vec<Case>) -> Result<()> {
        let text = |name: &str| {
            let path = self.env.repo.join("xtask").join(name);
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
        };
        if self.count {
            match planned(&text("planned")?, suite) {
                Some(n) if n == cases.len() => {}
                n => self.fail(
                    suite,
                    format!(
                        "{} tests ran, xtask/planned says {}",
                        cases.len(),
                        n.unwrap_or(0)
                    ),
                ),
            }
        } else if cases.is_empty() {
            self.fail(suite, "no test ran");
        }
        let skips = text("skips")?;
        for case in cases {
            if case.outcome == Outcome::Skip && !skip_listed(&skips, suite, &case.name) {
                self.fail(
                    suite,
                    format!("{}: a skip not listed in xtask/skips", case.name),
                );
            } else {
                self.cases.push((suite.into(), case));
            }
        }
        Ok(())
    }

    /// A suite that could not run at all is a failure, not the end of the others.
    fn run(&mut self, suite: &str, cases: Result<Vec<Case>>) -> Result<()> {
        match cases {
            Ok(cases) => self.add(suite, cases),
            Err(error) => {
                eprintln!("{error:#}");
                self.fail(suite, "could not be run");
                Ok(())
            }
        }
    }
}

/// The number of tests of a suite: lines of "suite number".
fn planned(text: &str, suite: &str) -> Option<usize> {
    text.lines().find_map(|line| {
        let (name, number) = line.split_once(' ')?;
        (name == suite).then(|| number.trim().parse().ok())?
    })
}

/// Whether a skip is expected: lines of "suite: test: reason".
fn skip_listed(text: &str, suite: &str, test: &str) -> bool {
    text.lines().any(|line| {
        line.strip_prefix(&format!("{suite}: {test}: "))
            .is_some_and(|reason| !reason.trim().is_empty())
    })
}

/// "test result: ok. 12 passed; 1 failed; …" of cargo.
fn host_cases(output: &str) -> Vec<Case> {
    output
        .lines()
        .filter_map(|line| {
            let (name, result) = line.strip_prefix("test ")?.split_once(" ... ")?;
            Some(Case {
                name: name.to_string(),
                outcome: match result {
                    "ok" => Outcome::Pass,
                    "ignored" => Outcome::Skip,
                    _ => Outcome::Fail,
                },
            })
        })
        .collect()
}

fn host(env: &Env) -> Result<Vec<Case>> {
    ui::step("host tests", |_| {
        let out = Command::new(std::env::var("CARGO").unwrap_or("cargo".into()))
            .args(["test", "--package", "xtask"])
            .current_dir(&env.repo)
            .output()?;
        let cases = host_cases(&String::from_utf8_lossy(&out.stdout));
        if !out.status.success() {
            eprintln!("{}", String::from_utf8_lossy(&out.stdout));
            eprintln!("{}", String::from_utf8_lossy(&out.stderr));
            if cases.iter().all(|case| case.outcome != Outcome::Fail) {
                bail!("the host tests do not build");
            }
        }
        Ok(cases)
    })
}

/// The scripts of the selftests, as their Makefile lists them.
fn scripts(env: &Env) -> Result<Vec<String>> {
    let path = env.repo.join("tools/testing/selftests/blkfilter/Makefile");
    let text = fs::read_to_string(path)?;
    let name = |line: &str| Some(line.strip_prefix("TEST_PROGS += ")?.trim().to_string());
    Ok(text.lines().filter_map(name).collect())
}

/// Runs scripts of the selftests in one guest.
fn selftests(env: &Env, flavour: Flavour, scripts: &[String]) -> Result<Vec<Case>> {
    let kernel = build::kernel(env, flavour)?;
    let install = build::selftests(env, flavour, &kernel)?;
    let mut only = String::new();
    for script in scripts {
        only += &format!(" -t blkfilter:{script}");
    }
    let mut guest = qemu::Guest::new(
        &kernel,
        format!(
            "cp -r /mnt/share /tmp/selftests && cd /tmp/selftests && \
             echo first test line && ./run_kselftest.sh{only}"
        ),
    );
    guest.share = Some(install);
    guest.cpus = 4;
    guest.kmemleak = flavour == Flavour::Debug;
    guest.timeout = Duration::from_secs(if flavour == Flavour::Debug { 2400 } else { 900 });
    let name = format!("selftests on the {} kernel", flavour.name());
    ui::step(&name, |_| {
        let since = Instant::now();
        let mut output = String::new();
        let outcome = qemu::run(env, &guest, |line| {
            if output.is_empty() {
                let took = since.elapsed().as_secs_f64();
                eprintln!("    boot to the first test line: {took:.1} s");
            } else {
                qemu::print(line);
            }
            output += line;
        })?;
        let mut cases = ktap::selftests(&output);
        for splat in &outcome.splats {
            eprintln!("--- in the kernel log:\n{splat}\n---");
            let first = splat.lines().take(3).collect::<Vec<_>>().join(" ");
            cases.push(Case {
                name: format!("kernel log: {first}"),
                outcome: Outcome::Fail,
            });
        }
        Ok(cases)
    })
}

pub struct Options {
    pub full: bool,
    pub flavour: Option<Flavour>,
    pub only: Option<String>,
}

pub fn run(env: &Env, options: &Options) -> Result<()> {
    let mut report = Report {
        env,
        cases: Vec::new(),
        count: options.only.is_none(),
    };
    let all = scripts(env)?;
    if let Some(pattern) = &options.only {
        let some: Vec<String> = all.into_iter().filter(|s| s.contains(pattern)).collect();
        if some.is_empty() {
            bail!("no selftest has {pattern} in its name");
        }
        let flavour = options.flavour.unwrap_or(Flavour::Plain);
        let suite = format!("selftests-{}", flavour.name());
        report.run(&suite, selftests(env, flavour, &some))?;
    } else {
        if options.flavour.is_none() {
            report.run("host", host(env))?;
            let kunit = build::uml_kunit(env).and_then(|json| ktap::kunit(&json));
            report.run("kunit-uml", kunit)?;
        }
        if options.flavour != Some(Flavour::Debug) {
            report.run("selftests-plain", selftests(env, Flavour::Plain, &all))?;
        }
        if options.full || options.flavour == Some(Flavour::Debug) {
            report.run("selftests-debug", selftests(env, Flavour::Debug, &all))?;
        } else if options.flavour.is_none() {
            let smoke = fs::read_to_string(env.repo.join("xtask/smoke"))?;
            let smoke: Vec<String> = smoke.lines().map(str::to_string).collect();
            if let Some(unknown) = smoke.iter().find(|name| !all.contains(name)) {
                bail!("xtask/smoke names {unknown}, which is no selftest");
            }
            report.run(
                "selftests-debug-smoke",
                selftests(env, Flavour::Debug, &smoke),
            )?;
        }
    }
    ui::print_times();
    eprintln!();
    let count = |outcome| {
        report
            .cases
            .iter()
            .filter(|(_, c)| c.outcome == outcome)
            .count()
    };
    for (suite, case) in &report.cases {
        match case.outcome {
            Outcome::Fail => println!("FAILED {suite}: {}", case.name),
            Outcome::Skip => println!("skipped {suite}: {}", case.name),
            Outcome::Pass => {}
        }
    }
    let (passed, failed) = (count(Outcome::Pass), count(Outcome::Fail));
    println!(
        "{passed} passed, {failed} failed, {} skipped",
        count(Outcome::Skip)
    );
    if failed > 0 || passed == 0 {
        std::process::exit(1);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::Toolchain;

    #[test]
    fn plans_and_skips() {
        assert_eq!(
            planned("host 3\nselftests-plain 40\n", "selftests-plain"),
            Some(40)
        );
        assert_eq!(planned("host 3\n", "selftests"), None);
        assert!(skip_listed("a: t: no such hardware\n", "a", "t"));
        assert!(!skip_listed("a: t: \n", "a", "t"));
        assert!(!skip_listed("b: t: why\n", "a", "t"));
    }

    #[test]
    fn too_few_too_many_and_unlisted_skips_are_red() {
        let env = Env::new(Toolchain::Host, None).unwrap();
        let number = planned(
            &fs::read_to_string(env.repo.join("xtask/planned")).unwrap(),
            "kunit-uml",
        )
        .unwrap();
        let failures = |number: usize, outcome| {
            let mut report = Report {
                env: &env,
                cases: Vec::new(),
                count: true,
            };
            let case = |_| Case {
                name: "t".into(),
                outcome,
            };
            report
                .add("kunit-uml", (0..number).map(case).collect())
                .unwrap();
            let failed = |(_, case): &&(String, Case)| case.outcome == Outcome::Fail;
            report.cases.iter().filter(failed).count()
        };
        assert_eq!(failures(number, Outcome::Pass), 0);
        assert_eq!(failures(number - 1, Outcome::Pass), 1);
        assert_eq!(failures(number + 1, Outcome::Pass), 1);
        assert_eq!(failures(0, Outcome::Pass), 1);
        assert_eq!(failures(number, Outcome::Skip), number);
    }

    #[test]
    fn cargo_output() {
        let cases = host_cases("running 2 tests\ntest a::b ... ok\ntest c ... FAILED\n");
        assert_eq!(cases.len(), 2);
        assert_eq!(cases[1].outcome, Outcome::Fail);
    }
}
