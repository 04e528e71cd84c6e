// SPDX-License-Identifier: GPL-2.0
//! Incremental backups on a machine that loses its power in the middle of writing.

use crate::{
    build::{self, Flavour},
    env::Env,
    ktap::{self, Case},
    qemu, ui,
};
use anyhow::Result;
use std::{fs, time::Duration};

pub fn run(env: &Env) -> Result<Vec<Case>> {
    let kernel = build::kernel(env, Flavour::Plain)?;
    let install = build::selftests(env, Flavour::Plain, &kernel)?;
    let disk = env.cache.join("guest/powercut.img");
    ui::step("a power cut during backups", |_| {
        fs::File::create(&disk)?.set_len(128 << 20)?;
        let mut output = String::new();
        for boot in 1..=2 {
            let script = include_str!("../../guest/powercut.sh");
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
