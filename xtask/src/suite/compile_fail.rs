// SPDX-License-Identifier: GPL-2.0
//! Misuse of the Rust API, which must not compile against the kernel crate that was built.

use super::not_run;
use crate::{
    build::{self, Build, Flavour},
    env::Env,
    ktap::{self, Case},
    ui,
};
use anyhow::Result;
use std::fs;

pub fn run(env: &Env) -> Result<Vec<Case>> {
    build::kernel(env, Flavour::Plain)?;
    ui::step("misuse that must not compile", |_| {
        let dir = env.linux().join("tools/testing/selftests/blkfilter");
        let mut python = env.tool_in(&env.linux(), "python3", &[]);
        python.arg(dir.join("compile_fail.py"));
        python.arg(Build::of(env, Flavour::Plain).dir);
        let out = python.output()?;
        let text = String::from_utf8_lossy(&out.stdout);
        if !out.status.success() {
            eprint!("{text}{}", String::from_utf8_lossy(&out.stderr));
        }
        let mut cases = ktap::program(&text);
        let mut names = Vec::new();
        for entry in fs::read_dir(dir.join("compile_fail"))? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            names.extend(name.strip_suffix(".rs").map(str::to_string));
        }
        names.retain(|name| name != "prelude");
        cases.extend(not_run(&names, &cases));
        Ok(cases)
    })
}
