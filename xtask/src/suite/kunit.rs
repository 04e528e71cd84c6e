// SPDX-License-Identifier: GPL-2.0
//! The KUnit suites of the series, in user mode and in the debug kernel.

use super::log_case;
use crate::{
    build::{self, Flavour},
    env::{remove_all, Env},
    ktap::{Case, Outcome},
    qemu, ui,
};
use anyhow::{bail, Result};
use serde_json::Value;
use std::{fs, path::Path};

/// What the names of the series' own tests have in them.
const OURS: &[&str] = &["blk_filter", "block_filter", "block_bio", "block_bdev"];

/// What runs in the debug kernel. Other doctests are left out, because some of them put timers on
/// the stack without telling DEBUG_OBJECTS.
const GLOBS: &[&str] = &["*blk_filter*", "rust_doctests_kernel.*block_*"];

/// Builds a user-mode kernel and runs the tests there.
pub fn user_mode(env: &Env) -> Result<Vec<Case>> {
    build::prepare(env)?;
    let build = env.cache.join(format!("build/uml{}", env.suffix()));
    let json = build.join("kunit.json");
    fs::create_dir_all(&build)?;
    remove_all(&json)?;
    ui::step("build and run KUnit in a user-mode kernel", |step| {
        let mut kunit = env.tool_in(&env.linux(), "tools/testing/kunit/kunit.py", &[]);
        kunit
            .args(["run", "--make_options", "LLVM=1"])
            .arg(build::jobs().replace("-j", "--jobs="))
            .args(["--make_options", "CC=ccache clang"])
            .arg(format!("--build_dir={}", build.display()))
            .arg(format!("--json={}", json.display()))
            .arg("--kunitconfig")
            .arg(env.repo.join("xtask/kernel/uml.config"))
            .args(["--timeout", "300"]);
        // kunit.py fails if a test fails; the results say which.
        let result = ui::run_logged(&mut kunit, &env.log("kunit-uml"), step);
        match json.exists() {
            true => Ok(()),
            false => result.and_then(|()| bail!("kunit.py left no results")),
        }
    })?;
    cases(&json)
}

/// Boots the debug kernel, which has the tests built in.
pub fn debug(env: &Env) -> Result<Vec<Case>> {
    let kernel = build::kernel(env, Flavour::Debug)?;
    ui::step("KUnit on the debug kernel", |_| {
        let mut all = Vec::new();
        for glob in GLOBS {
            let mut guest = qemu::Guest::new(&kernel, "true");
            guest.cmdline = format!("kunit.enable=1 kunit.filter_glob={glob}");
            let outcome = qemu::run(env, &guest, |_| {})?;
            let cases = parse(env, &outcome.log)?;
            if cases.is_empty() {
                bail!("no KUnit test is named {glob}");
            }
            all.extend(cases);
            all.extend(outcome.splats.iter().map(|splat| log_case(splat)));
        }
        Ok(all)
    })
}

/// The results in a kernel log.
fn parse(env: &Env, log: &str) -> Result<Vec<Case>> {
    let (text, json) = (env.log("kunit-qemu"), env.cache.join("log/kunit-qemu.json"));
    fs::write(&text, log)?;
    remove_all(&json)?;
    let mut kunit = env.tool_in(&env.linux(), "tools/testing/kunit/kunit.py", &[]);
    kunit.args(["parse", "--json"]);
    kunit.arg(format!("--json={}", json.display())).arg(&text);
    let out = kunit.output()?;
    if !json.exists() {
        bail!("kunit.py: {}", String::from_utf8_lossy(&out.stderr).trim());
    }
    cases(&json)
}

/// The results of the series' own tests in a file of `kunit.py --json`.
fn cases(json: &Path) -> Result<Vec<Case>> {
    let mut cases = Vec::new();
    walk(
        &serde_json::from_str(&fs::read_to_string(json)?)?,
        &mut cases,
    );
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
