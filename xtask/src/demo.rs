// SPDX-License-Identifier: GPL-2.0
//! `cargo xtask demo`: filters at work, for a person to watch.

use crate::{
    build::{self, Flavour},
    env::{remove_all, Env},
    qemu,
    toolchain::mke2fs,
    ui,
};
use anyhow::{bail, Result};
use std::{fs, path::PathBuf};

const SCRIPT: &str = include_str!("../guest/demo.sh");
const BACKUP: &str = include_str!("../../tools/testing/selftests/blkfilter/backup.py");

/// An ext4 image with the kernel's documentation: a real tree to copy. Made once a kernel.
fn documentation(env: &Env) -> Result<PathBuf> {
    let dir = env.cache.join("guest");
    let image = dir.join(format!("documentation{}.img", env.suffix()));
    if image.exists() {
        return Ok(image);
    }
    fs::create_dir_all(dir)?;
    let from = env.linux().join("Documentation");
    let options = ["-O", "^has_journal", "-d", &from.to_string_lossy()];
    ui::step("make a disk with the kernel's Documentation/", |step| {
        mke2fs(env, &image, "400M", &options, step)
    })?;
    Ok(image)
}

pub fn run(env: &Env) -> Result<i32> {
    let kernel = build::kernel(env, Flavour::Plain)?;
    let documentation = documentation(env)?;
    let disk = env.cache.join("guest/demo.img");
    // mke2fs leaves no work for later, because the counters are compared to the sector.
    let options = ["-E", "lazy_itable_init=0,lazy_journal_init=0"];
    ui::step("make the demo's disk", |step| mke2fs(env, &disk, "512M", &options, step))?;

    let backup = format!("cat > /tmp/backup.py <<'BACKUP'\n{BACKUP}BACKUP\n");
    let mut guest = qemu::Guest::new(&kernel, backup + SCRIPT);
    guest.disks = vec![(disk.clone(), true), (documentation, false)];
    guest.timeout = 300;
    let mut seen = Vec::new();
    let outcome = ui::step("the demo", |_| {
        qemu::run(env, &guest, |line| {
            seen.extend(line.strip_prefix("  [ok] ").map(str::to_string));
            qemu::print(line);
        })
    })?;
    outcome.check()?;
    remove_all(&disk)?;
    // Each line of the script that starts with "ok" is a step that must have been seen.
    let steps = SCRIPT.lines().filter(|line| line.starts_with("ok \"")).count();
    if seen.len() != steps {
        bail!("{} of {steps} steps were seen to happen", seen.len());
    }
    ui::print_times();
    println!("\nAll {steps} steps were seen to happen, and the kernel log is clean.");
    Ok(0)
}
