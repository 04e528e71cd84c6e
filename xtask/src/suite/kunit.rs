// SPDX-License-Identifier: GPL-2.0
//! The KUnit suites of the series, in user mode and in the debug kernel.

use super::log_case;
use crate::{
    build::{self, Flavour},
    env::{remove_all, Env},
    ktap::{Case, Outcome},
    logscan, qemu, ui,
};
use anyhow::{bail, Context, Result};
use serde_json::Value;
use std::{fs, path::Path};

/// Parts of the names of the series' own tests.
const OURS: &[&str] = &["blk_filter", "block_filter", "block_bio", "block_bdev"];

/// The tests that run in the debug kernel. Other doctests are left out, because some of them put
/// timers on the stack without telling DEBUG_OBJECTS.
const GLOBS: &[&str] = &["*blk_filter*", "rust_doctests_kernel.*block_*"];

/// User mode is compiled with -mcmodel=large, with which clang puts variables into .lbss. Its linker
/// script does not know that: to lockdep no key is one of the kernel's, and it gives up at the first
/// lock. With this no variable is large.
const KCFLAGS: &str = "--make_options=KCFLAGS=-mlarge-data-threshold=2147483647 \
                       -Wno-unused-command-line-argument";

/// Builds a user-mode kernel and runs the tests there. A report in its log is a failure, whoever's
/// test it comes from: lockdep is silent after its first one, so ours could follow unseen.
pub fn user_mode(env: &Env, mutant: Option<&Path>) -> Result<Vec<Case>> {
    user_mode_with(env, "uml", mutant)
}

/// The same in a kernel that does not count whether it may be preempted, nor notice in any other
/// way that a lock is held: no kernel for x86-64 is like that, but those for 32-bit Arm are.
pub fn voluntary(env: &Env) -> Result<Vec<Case>> {
    user_mode_with(env, "uml-voluntary", None)
}

fn user_mode_with(env: &Env, name: &str, mutant: Option<&Path>) -> Result<Vec<Case>> {
    build::prepare_with(env, mutant)?;
    let build = env.dir(&format!("build/{name}"));
    let log = build.join("test.log");
    fs::create_dir_all(&build)?;
    remove_all(&log)?;
    ui::step(&format!("build and run KUnit in a user-mode kernel ({name})"), |step| {
        let jobs = build::jobs().replace("-j", "--jobs=");
        let dir = format!("--build_dir={}", build.display());
        let config = format!("--kunitconfig={}/xtask/kernel/{name}.config", env.repo.display());
        let args = ["--make_options=CC=ccache clang", KCFLAGS, &jobs, &dir, &config];
        // Without seccomp user mode has one CPU.
        let verb = "run --timeout=300 --make_options=LLVM=1 --kernel_args=seccomp=on \
                    --kernel_args=ncpus=2";
        let mut cases = results(env, verb, &args, &format!("kunit-{name}"), step)?;
        let log = fs::read(&log).context("kunit.py left no kernel log")?;
        let splats = logscan::scan(&String::from_utf8_lossy(&log));
        cases.extend(splats.iter().map(|splat| log_case(splat)));
        Ok(cases)
    })
}

/// Boots the debug kernel, which has the tests built in.
pub fn debug(env: &Env) -> Result<Vec<Case>> {
    let kernel = build::kernel(env, Flavour::Debug)?;
    ui::step("KUnit on the debug kernel", |step| {
        let mut all = Vec::new();
        for glob in GLOBS {
            let mut guest = qemu::Guest::new(&kernel, "true");
            guest.cmdline = format!("kunit.enable=1 kunit.filter_glob={glob}");
            let outcome = qemu::run(env, &guest, |_| {})?;
            let log = env.log("kunit-debug");
            fs::write(&log, &outcome.log)?;
            let cases = results(env, "parse", &[&log.to_string_lossy()], "kunit-parse", step)?;
            if cases.is_empty() {
                bail!("no KUnit test is named {glob}");
            }
            all.extend(cases);
            all.extend(outcome.splats.iter().map(|splat| log_case(splat)));
        }
        Ok(all)
    })
}

/// The results of the series' own tests, as kunit.py finds them; `words` are its first arguments.
fn results(env: &Env, words: &str, args: &[&str], log: &str, step: &ui::Step) -> Result<Vec<Case>> {
    let json = env.cache.join("log/kunit.json");
    remove_all(&json)?;
    let mut kunit = env.tool_in(&env.linux(), "tools/testing/kunit/kunit.py", &[]);
    kunit.args(words.split(' ')).args(args).arg(format!("--json={}", json.display()));
    // kunit.py fails if a test fails, of ours or not, and if the kernel died before all had run.
    let result = ui::run_logged(&mut kunit, &env.log(log), step);
    if !json.exists() {
        result?;
        bail!("kunit.py left no results");
    }
    let mut cases = Vec::new();
    walk(&serde_json::from_str(&fs::read_to_string(json)?)?, &mut cases);
    if cases.iter().all(|case| case.outcome != Outcome::Fail) {
        cases.extend(result.err().map(|error| Case::of_result("all tests ran", Err(error))));
    }
    Ok(cases)
}

fn walk(group: &Value, cases: &mut Vec<Case>) {
    let list = |name: &str| group[name].as_array().into_iter().flatten();
    let text = |value: &Value| value.as_str().unwrap_or("?").to_string();
    for test in list("test_cases") {
        let name = format!("{}.{}", text(&group["name"]), text(&test["name"]));
        if OURS.iter().any(|ours| name.contains(ours)) {
            let outcome = match test["status"].as_str() {
                Some("PASS") => Outcome::Pass,
                Some("SKIP") => Outcome::Skip,
                _ => Outcome::Fail,
            };
            cases.push(Case::new(name, outcome));
        }
    }
    for group in list("sub_groups") {
        walk(group, cases);
    }
}
