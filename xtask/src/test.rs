// SPDX-License-Identifier: GPL-2.0
//! `cargo xtask test`: every suite, and one verdict.

use crate::{
    build::{self, Flavour},
    env::Env,
    ktap::{self, Case, Outcome},
    qemu, style, ui,
};
use anyhow::{bail, Context, Result};
use std::{
    fs,
    path::PathBuf,
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

/// The scripts that a file names.
fn listed(env: &Env, file: &str, all: &[String]) -> Result<Vec<String>> {
    let text = fs::read_to_string(env.repo.join("xtask").join(file))?;
    let some: Vec<String> = text.lines().map(str::to_string).collect();
    if let Some(unknown) = some.iter().find(|name| !all.contains(name)) {
        bail!("xtask/{file} names {unknown}, which is no selftest");
    }
    Ok(some)
}

/// Runs scripts of the selftests in one guest.
fn selftests(env: &Env, flavour: Flavour, scripts: &[String], full: bool) -> Result<Vec<Case>> {
    let seconds = match flavour {
        Flavour::Plain => 2700,
        _ => 5400,
    };
    let seconds = if full { 3 * seconds } else { seconds };
    selftests_within(env, flavour, scripts, full, seconds)
}

fn selftests_within(
    env: &Env,
    flavour: Flavour,
    scripts: &[String],
    full: bool,
    seconds: u64,
) -> Result<Vec<Case>> {
    let kernel = build::kernel(env, flavour)?;
    let install = build::selftests(env, flavour, &kernel)?;
    // A long run does what takes long more often, and a debug kernel takes longer for everything.
    let mut only = match full || flavour != Flavour::Plain {
        true => " -o 2700".to_string(),
        false => String::new(),
    };
    let rounds = if full { "BLKFILTER_ROUNDS=200 " } else { "" };
    for script in scripts {
        only += &format!(" -t blkfilter:{script}");
    }
    let mut guest = qemu::Guest::new(
        &kernel,
        format!(
            "cp -r /mnt/share /tmp/selftests && cd /tmp/selftests && \
             echo first test line && {rounds}./run_kselftest.sh{only}"
        ),
    );
    guest.share = Some(install);
    guest.cpus = 4;
    guest.kmemleak = flavour == Flavour::Debug;
    guest.timeout = Duration::from_secs(seconds);
    // Becomes /dev/pmem0.
    guest.cmdline = "memmap=64M!1G".into();
    if env.mutant.borrow().is_some() {
        // An oops is how some bugs show themselves to the test.
        guest.cmdline += " sysctl.kernel.panic_on_oops=0";
    }
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
        });
        let mut cases = ktap::selftests(&output);
        match outcome {
            Ok(outcome) => {
                if flavour == Flavour::Kcsan && !outcome.log.contains("kcsan: enabled") {
                    bail!("KCSAN is not at work in this kernel");
                }
                let (ours, others): (Vec<_>, Vec<_>) =
                    outcome.splats.iter().partition(|splat| ours(splat));
                cases.extend(ours.iter().map(|splat| log_case(splat)));
                if flavour == Flavour::Kcsan {
                    eprintln!("    {} data races of code that is not ours", others.len());
                    for splat in &others {
                        eprintln!("      {}", splat.lines().next().unwrap_or_default());
                    }
                }
            }
            // What it said until then counts.
            Err(error) if !cases.is_empty() => {
                eprintln!("{error:#}");
                cases.push(Case {
                    name: "the guest came to no good end".into(),
                    outcome: Outcome::Fail,
                });
            }
            Err(error) => return Err(error),
        }
        Ok(cases)
    })
}

/// Misuse of the Rust API, which must not compile against the kernel crate that was built.
fn compile_fail(env: &Env) -> Result<Vec<Case>> {
    build::kernel(env, Flavour::Plain)?;
    ui::step("misuse that must not compile", |_| {
        let dir = env.linux().join("tools/testing/selftests/blkfilter");
        let mut command = env.tool_in(&env.linux(), "python3", &[]);
        command
            .arg(dir.join("compile_fail.py"))
            .arg(build::dir(env, "build", Flavour::Plain));
        let out = command.output()?;
        let text = String::from_utf8_lossy(&out.stdout);
        if !out.status.success() {
            eprint!("{text}{}", String::from_utf8_lossy(&out.stderr));
        }
        Ok(ktap::program(&text))
    })
}

/// Incremental backups on a machine that loses its power in the middle of writing.
fn power_cut(env: &Env) -> Result<Vec<Case>> {
    let kernel = build::kernel(env, Flavour::Plain)?;
    let install = build::selftests(env, Flavour::Plain, &kernel)?;
    let disk = env.cache.join("guest/powercut.img");
    ui::step("a power cut during backups", |_| {
        fs::File::create(&disk)?.set_len(128 << 20)?;
        let mut output = String::new();
        for boot in 1..=2 {
            let script = include_str!("../guest/powercut.sh");
            let mut guest = qemu::Guest::new(&kernel, format!("BOOT={boot}\n{script}"));
            guest.share = Some(install.clone());
            guest.disks.push((disk.clone(), true));
            guest.timeout = Duration::from_secs(180);
            let outcome = qemu::run(env, &guest, |line| {
                qemu::print(line);
                output += line;
            })?;
            outcome.check()?;
        }
        fs::remove_file(&disk)?;
        Ok(ktap::program(&output))
    })
}

/// With `CONFIG_BLK_FILTER=n` not an instruction of `block/` differs from the kernel without us.
fn disassembly(env: &Env) -> Result<Vec<Case>> {
    let objects = build::objects(env)?;
    let mut outcome = Outcome::Pass;
    for (name, base, series) in &objects {
        if base != series {
            let lines = base.lines().zip(series.lines());
            let at = lines.take_while(|(a, b)| a == b).count();
            eprintln!("{name} differs, first in line {at} of its disassembly:");
            for text in [base, series] {
                eprintln!("    {}", text.lines().nth(at).unwrap_or("(its end)"));
            }
            outcome = Outcome::Fail;
        }
    }
    let name = "C2: CONFIG_BLK_FILTER=n: the same instructions in block/".to_string();
    println!("{} objects compared", objects.len());
    if objects.len() < 50 {
        outcome = Outcome::Fail;
    }
    Ok(vec![Case { name, outcome }])
}

/// Runs our KUnit suites in the debug kernel, which has them built in, as it boots. Not all suites:
/// some doctests of others put timers on the stack without telling DEBUG_OBJECTS.
fn kunit_qemu(env: &Env) -> Result<Vec<Case>> {
    let kernel = build::kernel(env, Flavour::Debug)?;
    ui::step("KUnit on the debug kernel", |_| {
        let mut cases = Vec::new();
        for glob in ["*blk_filter*", "rust_doctests_kernel.*block_*"] {
            let mut guest = qemu::Guest::new(&kernel, "true");
            guest.cmdline = format!("kunit.enable=1 kunit.filter_glob={glob}");
            let outcome = qemu::run(env, &guest, |_| {})?;
            cases.extend(ktap::kunit(&build::parse_kunit(env, &outcome.log)?)?);
            cases.extend(outcome.splats.iter().map(|splat| log_case(splat)));
        }
        Ok(cases)
    })
}

/// The block layer has data races of its own, and whoever wrote it knows which of them are meant;
/// all other reports are about us. What is ours in an upstream function is inlined into it, so that
/// a race in one of those counts as well.
fn ours(splat: &str) -> bool {
    let head = splat.lines().next().unwrap_or_default();
    let names = ["filter", "blkf", "changetrack", "blkerror", "blkdelay"];
    let with_ours_inlined = [
        "submit_bio_noacct",
        "bio_endio",
        "bio_clone",
        "bio_init",
        "bio_reset",
        "bdev_set_nr_sectors",
        "bdev_free_inode",
        "bdev_evict_inode",
        "add_partition",
        "drop_partition",
        "del_gendisk",
    ];
    let has = |names: &[&str]| names.iter().any(|name| head.contains(name));
    !head.contains("KCSAN:") || has(&names) || has(&with_ours_inlined)
}

/// What is wrong with a kernel log is a failure of its own.
fn log_case(splat: &str) -> Case {
    eprintln!("--- in the kernel log:\n{splat}\n---");
    let first = splat.lines().take(3).collect::<Vec<_>>().join(" ");
    Case {
        name: format!("kernel log: {first}"),
        outcome: Outcome::Fail,
    }
}

/// A seeded bug and what has to catch it: `xtask/mutants/<name>/diff`, and `test` with the name of
/// a script and of a clause.
struct Mutant {
    dir: PathBuf,
    script: String,
    clause: String,
}

fn mutants(env: &Env) -> Result<Vec<Mutant>> {
    let mut mutants = Vec::new();
    for entry in fs::read_dir(env.repo.join("xtask/mutants"))? {
        let dir = entry?.path();
        let text = fs::read_to_string(dir.join("test"))
            .with_context(|| format!("{} has no `test`", dir.display()))?;
        let (script, clause) = text
            .trim()
            .split_once(' ')
            .with_context(|| format!("{}/test: no script and clause", dir.display()))?;
        mutants.push(Mutant {
            dir: dir.clone(),
            script: script.into(),
            clause: clause.into(),
        });
    }
    mutants.sort_by(|a, b| a.dir.cmp(&b.dir));
    Ok(mutants)
}

/// Whether a check of the script failed that names the clause.
fn caught(mutant: &Mutant, cases: &[Case]) -> bool {
    let start = format!("{}: {}:", mutant.script, mutant.clause);
    cases
        .iter()
        .any(|case| case.outcome == Outcome::Fail && case.name.starts_with(&start))
}

/// Builds the kernel with each seeded bug; the test that is for it has to fail there, and to pass
/// without it.
pub fn run_mutants(env: &Env, only: Option<&str>) -> Result<()> {
    let mut mutants = mutants(env)?;
    mutants.retain(|m| only.is_none_or(|only| m.dir.to_string_lossy().contains(only)));
    let mut scripts: Vec<String> = mutants.iter().map(|m| m.script.clone()).collect();
    scripts.sort();
    scripts.dedup();
    let cases = selftests(env, Flavour::Plain, &scripts, false)?;
    let failed: Vec<&Case> = cases
        .iter()
        .filter(|case| case.outcome != Outcome::Pass)
        .collect();
    if !failed.is_empty() || cases.is_empty() {
        bail!("the tests do not pass without a seeded bug: {failed:?}");
    }
    let mut count = 0;
    for mutant in &mutants {
        let name = mutant.dir.file_name().unwrap_or_default().to_string_lossy();
        eprintln!("--- {name}");
        env.mutant.replace(Some(mutant.dir.clone()));
        // A bug may well hang the guest, after the check has failed.
        let script = std::slice::from_ref(&mutant.script);
        let cases = selftests_within(env, Flavour::Plain, script, false, 120);
        env.mutant.replace(None);
        let good = cases.as_ref().is_ok_and(|cases| caught(mutant, cases));
        if let Err(error) = cases {
            eprintln!("{error:#}");
        }
        count += good as usize;
        let verdict = if good { "caught" } else { "NOT CAUGHT" };
        println!("{verdict}: {name}, by {} {}", mutant.script, mutant.clause);
    }
    ui::print_times();
    println!("caught {count}/{}", mutants.len());
    if count != mutants.len() || mutants.is_empty() {
        std::process::exit(1);
    }
    Ok(())
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
    let suite = options.only.as_deref().unwrap_or_default();
    let suites = [
        "host",
        "style",
        "kunit-uml",
        "kunit-debug",
        "compile-fail",
        "disassembly",
        "lint",
        "commits",
        "power-cut",
    ];
    if suites.contains(&suite) {
        report.count = true;
        let cases = match suite {
            "host" => host(env),
            "style" => style::check(env),
            "compile-fail" => compile_fail(env),
            "disassembly" => disassembly(env),
            "lint" => style::lint(env),
            "commits" => style::commits(env),
            "power-cut" => power_cut(env),
            "kunit-uml" => build::uml_kunit(env).and_then(|json| ktap::kunit(&json)),
            _ => kunit_qemu(env),
        };
        report.run(suite, cases)?;
    } else if let Some(pattern) = &options.only {
        let some: Vec<String> = all.into_iter().filter(|s| s.contains(pattern)).collect();
        if some.is_empty() {
            bail!("no selftest has {pattern} in its name");
        }
        let flavour = options.flavour.unwrap_or(Flavour::Plain);
        let suite = format!("selftests-{}", flavour.name());
        report.run(&suite, selftests(env, flavour, &some, options.full))?;
    } else {
        if options.flavour.is_none() {
            report.run("host", host(env))?;
            report.run("style", style::check(env))?;
            let kunit = build::uml_kunit(env).and_then(|json| ktap::kunit(&json));
            report.run("kunit-uml", kunit)?;
        }
        if options
            .flavour
            .is_none_or(|flavour| flavour == Flavour::Plain)
        {
            report.run("compile-fail", compile_fail(env))?;
            report.run(
                "selftests-plain",
                selftests(env, Flavour::Plain, &all, options.full),
            )?;
            report.run("power-cut", power_cut(env))?;
        }
        if options.full {
            report.run("lint", style::lint(env))?;
            report.run("commits", style::commits(env))?;
            report.run("disassembly", disassembly(env))?;
        }
        if options.full || options.flavour == Some(Flavour::Debug) {
            report.run("kunit-debug", kunit_qemu(env))?;
            report.run(
                "selftests-debug",
                selftests(env, Flavour::Debug, &all, options.full),
            )?;
        }
        if options.full || options.flavour == Some(Flavour::Kcsan) {
            let some = listed(env, "kcsan", &all)?;
            report.run(
                "selftests-kcsan",
                selftests(env, Flavour::Kcsan, &some, false),
            )?;
        } else if options.flavour.is_none() {
            let smoke = listed(env, "smoke", &all)?;
            report.run(
                "selftests-debug-smoke",
                selftests(env, Flavour::Debug, &smoke, false),
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
    fn a_mutant_is_caught_by_its_clause_only() {
        let mutant = Mutant {
            dir: PathBuf::from("x"),
            script: "test_a.sh".into(),
            clause: "C7".into(),
        };
        let case = |name: &str, outcome| {
            vec![Case {
                name: name.into(),
                outcome,
            }]
        };
        assert!(caught(&mutant, &case("test_a.sh: C7: x", Outcome::Fail)));
        assert!(!caught(&mutant, &case("test_a.sh: C7: x", Outcome::Pass)));
        assert!(!caught(&mutant, &case("test_a.sh: C71: x", Outcome::Fail)));
        assert!(!caught(&mutant, &case("test_b.sh: C7: x", Outcome::Fail)));
        assert!(!caught(&mutant, &[]));
        let env = Env::new(Toolchain::Host, None).unwrap();
        let all = scripts(&env).unwrap();
        let unknown = |m: &Mutant| !all.contains(&m.script) || !m.dir.join("diff").exists();
        assert_eq!(
            mutants(&env).unwrap().iter().filter(|m| unknown(m)).count(),
            0
        );
    }

    #[test]
    fn cargo_output() {
        let cases = host_cases("running 2 tests\ntest a::b ... ok\ntest c ... FAILED\n");
        assert_eq!(cases.len(), 2);
        assert_eq!(cases[1].outcome, Outcome::Fail);
    }
}
