// SPDX-License-Identifier: GPL-2.0
//! `cargo xtask`: from a clean machine to a tested kernel with block device filters.

mod absorb;
mod bench;
mod build;
mod demo;
mod doctor;
mod edit;
mod env;
mod ktap;
mod logscan;
mod qemu;
mod series;
mod source;
mod style;
mod test;
mod toolchain;
#[cfg(test)]
mod toy;
mod ui;

use anyhow::{bail, Context, Result};
use build::Flavour;
use clap::{Parser, Subcommand};
use env::{Env, Toolchain};
use std::{fs, io::IsTerminal, path::PathBuf, process::Command, time::Duration};

#[derive(Parser)]
#[command(name = "cargo xtask", about, max_term_width = 100)]
struct Cli {
    /// Whose compilers and emulator: a Debian root in the cache, or this machine's own.
    #[arg(long, global = true, value_enum, default_value = "root")]
    toolchain: Toolchain,
    /// A kernel tree of your own instead of Debian's source package.
    #[arg(long, global = true, value_name = "DIR")]
    kernel: Option<PathBuf>,
    #[command(subcommand)]
    job: Job,
}

#[derive(Subcommand)]
enum Job {
    /// Show it: boot a new kernel, attach a Rust filter to a busy disk, refuse writes, detach.
    Demo,
    /// Build kernel and modules; or, against them, a filter that lives outside of the tree.
    Build {
        #[arg(long, value_enum, default_value = "plain")]
        flavour: Flavour,
        /// Directory of a filter: its source and a Kbuild.
        #[arg(long, value_name = "DIR")]
        module: Option<PathBuf>,
    },
    /// Run the tests; the last line is "N passed, N failed, N skipped".
    Test {
        /// Everything in every flavour, not only a smoke part on the debug kernel.
        #[arg(long)]
        full: bool,
        #[arg(long, value_enum)]
        flavour: Option<Flavour>,
        /// Only the selftests, or mutants, with this in their name; or host, style, kunit-uml,
        /// kunit-debug, compile-fail, power-cut, lint or disassembly.
        #[arg(long, value_name = "PATTERN")]
        only: Option<String>,
        /// Build kernels with seeded bugs instead; each has to be caught by its test.
        #[arg(long, conflicts_with_all = ["full", "flavour"])]
        mutants: bool,
    },
    /// Count the instructions that a bio costs, without and with filters.
    Bench {
        /// Only the rows with this in their name.
        #[arg(long, value_name = "ROW", default_value = "")]
        only: String,
        /// Write the table to this file as JSON.
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
        /// Write a plot to this file, as SVG.
        #[arg(long, value_name = "FILE")]
        plot: Option<PathBuf>,
    },
    /// Boot a guest and run a command there as root; exits with its status.
    Run {
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
    },
    /// An interactive guest with a scratch disk /dev/vdb and the filters ready.
    Shell {
        #[arg(long, value_enum, default_value = "plain")]
        flavour: Flavour,
    },
    /// Write the mailable patches.
    Series {
        #[arg(long, default_value = "patches")]
        out: PathBuf,
        /// Version of the series.
        #[arg(short = 'v', default_value_t = 1)]
        version: u32,
        /// Apply them to a pristine kernel instead, and compare with what is built.
        #[arg(long)]
        check: bool,
    },
    /// Lay the series as commits on branch `blkfilter` in a kernel tree for editing.
    Edit {
        /// Drop what is there and was not landed.
        #[arg(long)]
        discard: bool,
    },
    /// Take the branch that `edit` laid back into the repository.
    Land,
    /// Take edits of our files in the repository into commits of the series; `test` does that too.
    Absorb {
        /// The commit that gets what does not clearly belong to one: number or part of its name.
        #[arg(long, value_name = "COMMIT")]
        into: Option<String>,
    },
    /// Move the series to another kernel.
    #[command(group = clap::ArgGroup::new("how").required(true))]
    Rebase {
        /// Directory of a kernel, or the version of a Debian package ([PACKAGE=]VERSION).
        #[arg(long, group = "how", value_name = "KERNEL")]
        base: Option<String>,
        /// Go on after conflicts were mended.
        #[arg(long, group = "how")]
        r#continue: bool,
        /// Give up; nothing was changed.
        #[arg(long, group = "how")]
        abort: bool,
    },
    /// Remove the cache, and with it all that was made.
    Clean,
    /// Say what of the set-up is there, and what is missing.
    Doctor,
}

fn run_in_guest(env: &Env, flavour: Flavour, set: impl FnOnce(&mut qemu::Guest)) -> Result<i32> {
    let kernel = build::kernel(env, flavour)?;
    let mut guest = qemu::Guest::new(&kernel, "");
    set(&mut guest);
    let outcome = qemu::run(env, &guest, qemu::print)?;
    if outcome.splats.is_empty() {
        return Ok(outcome.status);
    }
    outcome.check().map(|()| 0)
}

fn shell(env: &Env, flavour: Flavour) -> Result<i32> {
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
    outcome?.check()?;
    Ok(0)
}

fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

fn run(cli: Cli) -> Result<i32> {
    let mut env = Env::new(cli.toolchain, cli.kernel)?;
    if let Job::Doctor = cli.job {
        return doctor::doctor(&env);
    }
    env.lock()?;
    let env = &env;
    if !matches!(cli.job, Job::Clean) {
        toolchain::ensure(env)?;
    }
    match cli.job {
        Job::Demo => demo::run(env)?,
        Job::Build {
            flavour,
            module: None,
        } => {
            let kernel = build::kernel(env, flavour)?;
            println!("{}\n{}", kernel.image.display(), kernel.modules.display());
        }
        Job::Build {
            flavour,
            module: Some(dir),
        } => {
            for module in build::module(env, flavour, &dir)? {
                println!("{}", module.display());
            }
        }
        Job::Test {
            mutants: true,
            only,
            ..
        } => test::run_mutants(env, only.as_deref())?,
        Job::Test {
            full,
            flavour,
            only,
            mutants: false,
        } => test::run(
            env,
            &test::Options {
                full,
                flavour,
                only,
            },
        )?,
        Job::Bench { only, json, plot } => bench::run(env, &bench::Options { only, json, plot })?,
        Job::Run {
            flavour,
            disk,
            share,
            cpus,
            memory,
            icount,
            timeout,
            command,
        } => {
            // One word is a script, more are a command and its arguments.
            let command = match command.as_slice() {
                [script] => script.clone(),
                words => words.iter().map(|w| quote(w)).collect::<Vec<_>>().join(" "),
            };
            return run_in_guest(env, flavour, |guest| {
                guest.command = command;
                guest.disks = disk.into_iter().map(|disk| (disk, true)).collect();
                guest.share = share;
                guest.cpus = cpus;
                guest.memory = memory;
                guest.icount = icount;
                guest.timeout = Duration::from_secs(timeout);
            });
        }
        Job::Shell { flavour } => return shell(env, flavour),
        Job::Series { check: true, .. } => series::check(env)?,
        Job::Series { out, version, .. } => {
            for name in series::write(env, &out, version)? {
                println!("{}", out.join(name).display());
            }
        }
        Job::Edit { discard } => edit::edit(env, discard)?,
        Job::Land => edit::land(env)?,
        Job::Absorb { into } => absorb::absorb(env, into.as_deref())?,
        Job::Rebase { base, abort, .. } => edit::rebase(
            env,
            &match (base, abort) {
                (Some(what), _) => edit::Rebase::Start(what),
                (None, true) => edit::Rebase::Abort,
                (None, false) => edit::Rebase::Continue,
            },
        )?,
        Job::Clean => {
            env::remove_all(&env.cache).context("could not remove all of the cache")?;
            println!("removed {}", env.cache.display());
        }
        Job::Doctor => unreachable!("handled above"),
    }
    Ok(0)
}

fn main() {
    match run(Cli::parse()) {
        Ok(status) => std::process::exit(status),
        Err(error) => {
            eprintln!("error: {error:#}");
            std::process::exit(1);
        }
    }
}
