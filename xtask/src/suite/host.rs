// SPDX-License-Identifier: GPL-2.0
//! Unit tests of xtask itself.

use super::command;
use crate::{env::Env, ktap::Case, ui};
use anyhow::Result;
use std::process::Command;

pub fn run(env: &Env) -> Result<Vec<Case>> {
    ui::step("host tests", |_| {
        let mut cargo = Command::new(std::env::var("CARGO").unwrap_or("cargo".into()));
        cargo.args(["test", "--package", "xtask"]);
        cargo.current_dir(&env.repo);
        Ok(vec![command("host tests", cargo)?])
    })
}
