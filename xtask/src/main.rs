// SPDX-License-Identifier: GPL-2.0
//! `cargo xtask`: from a clean machine to a tested kernel with block device filters.

mod absorb;
mod bench;
mod build;
mod demo;
mod edit;
mod env;
mod git;
mod ktap;
mod logscan;
mod qemu;
mod run;
mod series;
mod source;
mod suite;
mod toolchain;
#[cfg(test)]
mod toy;
mod ui;

use anyhow::{Context, Result};
use build::Flavour;
use clap::{Parser, Subcommand};
use env::{Env, Toolchain};
use std::path::PathBuf;

#[derive(Parser)]
#[command(bin_name = "cargo xtask", about, max_term_width = 100)]
struct Cli {
    /// Where compilers and emulator come from: a Debian root in the cache, or this machine.
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
    Build(build::Options),
    /// Run the tests; the last line is "N passed, N failed, N skipped".
    Test(suite::Options),
    /// Build kernels with seeded bugs; each bug has to be caught by its test.
    Mutants(suite::mutants::Options),
    /// Count the instructions that a bio costs, without and with filters.
    Bench(bench::Options),
    /// Boot a guest and run a command there as root; exits with its status.
    Run(run::Options),
    /// An interactive guest with a scratch disk /dev/vdb and the filters ready.
    Shell {
        #[arg(long, value_enum, default_value = "plain")]
        flavour: Flavour,
    },
    /// Write the mailable patches.
    Series(series::Options),
    /// Check each commit of the series on its own; `test` runs the quick form.
    Commits(suite::commits::Options),
    /// Lay the series as commits on branch `blkfilter` in a kernel tree for editing.
    Edit(edit::Options),
    /// Take the branch that `edit` laid back into the repository.
    Land,
    /// Take edits of our files in the repository into commits of the series; `test` does that too.
    Absorb(absorb::Options),
    /// Move the series to another kernel.
    Rebase(edit::Rebase),
    /// Remove the cache, and with it all that was made.
    Clean,
}

fn clean(env: &Env) -> Result<i32> {
    env::remove_all(&env.cache).context("could not remove all of the cache")?;
    println!("removed {}", env.cache.display());
    Ok(0)
}

/// Does what the command line says; the status to exit with.
fn run(cli: Cli) -> Result<i32> {
    let mut env = Env::new(cli.toolchain, cli.kernel)?;
    env.lock()?;
    // Nobody else works on the cache, so these are of a git that was killed.
    for lock in ["index.lock", "blkfilter-index.lock"] {
        env::remove_all(&env.linux().join(".git").join(lock))?;
    }
    if !matches!(cli.job, Job::Clean) {
        toolchain::ensure(&env)?;
    }
    match cli.job {
        Job::Demo => demo::run(&env),
        Job::Build(options) => build::run(&env, &options),
        Job::Test(options) => suite::run(&env, &options),
        Job::Mutants(options) => suite::mutants::run(&env, &options),
        Job::Bench(options) => bench::run(&env, &options),
        Job::Run(options) => run::run(&env, options),
        Job::Shell { flavour } => run::shell(&env, flavour),
        Job::Series(options) => series::run(&env, &options),
        Job::Commits(options) => suite::commits::command(&env, &options),
        Job::Edit(options) => edit::edit(&env, &options),
        Job::Land => edit::land(&env),
        Job::Absorb(options) => absorb::absorb(&env, &options),
        Job::Rebase(options) => edit::rebase(&env, &options),
        Job::Clean => clean(&env),
    }
}

fn main() {
    let status = run(Cli::parse()).unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        1
    });
    std::process::exit(status);
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn command_line() {
        Cli::command().debug_assert();
    }
}
