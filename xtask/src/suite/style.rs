// SPDX-License-Identifier: GPL-2.0
//! The kernel's own checks of our files, and whether the seeded bugs apply.

use super::command;
use crate::{
    build,
    env::{names_in, Env},
    ktap::Case,
    series, ui,
};
use anyhow::Result;

/// The program that checks a file, and its arguments.
fn checker(file: &str) -> Option<(&'static str, &'static str)> {
    let core = file.starts_with("block/blk-filter") && file.ends_with(".c");
    if file.contains("/compile_fail/") {
        // Some lines of these files exclude each other.
        None
    } else if file.ends_with(".rs") {
        Some(("rustfmt", "--check --edition 2021 --config-path .rustfmt.toml"))
    } else if core || file == "include/linux/blk-filter.h" {
        Some(("scripts/kernel-doc", "-none -Werror"))
    } else {
        None
    }
}

/// rustfmt and kernel-doc for each file; each seeded bug must apply.
pub fn run(env: &Env) -> Result<Vec<Case>> {
    build::prepare(env)?;
    ui::step("the kernel's own checks", |_| {
        let mut cases = Vec::new();
        let mutants = env.repo.join("xtask/mutants");
        for name in names_in(&mutants)? {
            let mut git = env.git();
            git.args(["apply", "--check"]).arg(mutants.join(&name).join("diff"));
            cases.push(command(format!("seeded bug {name} applies"), git)?);
        }
        for file in series::own_files(env)? {
            if let Some((program, args)) = checker(&file) {
                let mut check = env.tool_in(&env.linux(), program, &[]);
                check.args(args.split(' ')).arg(&file);
                cases.push(command(format!("{program} {file}"), check)?);
            }
        }
        Ok(cases)
    })
}
