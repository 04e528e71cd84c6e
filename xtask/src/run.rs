// SPDX-License-Identifier: GPL-2.0
//! `cargo xtask run` and `cargo xtask shell`: a guest for a person.

use crate::{
    build::{self, Flavour},
    env::Env,
    qemu, ui,
};
use anyhow::{bail, Result};
use std::{fs, io::IsTerminal, path::PathBuf, process::Command};

#[derive(clap::Args)]
pub struct Options {
    #[arg(long, value_enum, default_value = "plain")]
    flavour: Flavour,
    /// Disk image, becomes /dev/vdb, the next one /dev/vdc, …; writes are kept.
    #[arg(long, value_name = "IMG")]
    disk: Vec<PathBuf>,
    /// Directory shown at /mnt/share; what is written to /mnt/share/out is in DIR/out.
    #[arg(long, value_name = "DIR")]
    share: Option<PathBuf>,
    #[arg(long, default_value_t = 2)]
    cpus: u32,
    /// MiB.
    #[arg(long, default_value_t = 2048)]
    memory: u32,
    /// One nanosecond of the guest is one instruction; one CPU.
    #[arg(long)]
    icount: bool,
    /// Seconds until the guest counts as hanging.
    #[arg(long, default_value_t = 600)]
    timeout: u64,
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Runs a command in a guest; the status is that of the command.
pub fn run(env: &Env, options: Options) -> Result<i32> {
    let kernel = build::kernel(env, options.flavour)?;
    // One word is a script, more are a command and its arguments.
    let command = match options.command.as_slice() {
        [script] => script.clone(),
        words => words.iter().map(|word| quote(word)).collect::<Vec<_>>().join(" "),
    };
    let guest = qemu::Guest {
        disks: options.disk.into_iter().map(|disk| (disk, true)).collect(),
        share: options.share,
        cpus: options.cpus,
        memory: options.memory,
        icount: options.icount,
        timeout: options.timeout,
        ..qemu::Guest::new(&kernel, command)
    };
    let outcome = qemu::run(env, &guest, qemu::print)?;
    if outcome.splats.is_empty() {
        return Ok(outcome.status);
    }
    outcome.check().map(|()| 0)
}

/// Runs an interactive guest with a scratch disk.
pub fn shell(env: &Env, flavour: Flavour) -> Result<i32> {
    if !std::io::stdin().is_terminal() {
        bail!("`shell` wants a terminal; `run -- CMD` does not");
    }
    let disk = env.cache.join("scratch.img");
    fs::File::create(&disk)?.set_len(1 << 30)?;
    let terminal = |mode: &[&str]| Command::new("stty").args(mode).status();
    let saved = ui::output(Command::new("sh").args(["-c", "stty -g < /dev/tty"]))?;
    let kernel = build::kernel(env, flavour)?;
    terminal(&["raw", "-echo"])?;
    let mut guest = qemu::Guest::new(&kernel, include_str!("../guest/shell.sh"));
    guest.disks.push((disk, true));
    guest.interactive = true;
    let outcome = qemu::run(env, &guest, |_| {});
    terminal(&[saved.trim()])?;
    outcome?.check().map(|()| 0)
}
