// SPDX-License-Identifier: GPL-2.0
//! clippy and rustdoc with the kernel's settings, and a build for 32-bit Arm.

use crate::{
    build::{self, Build, Flavour},
    env::Env,
    ktap::Case,
    ui,
};
use anyhow::Result;
use std::fs;

/// Builds `target`, and before that the kernel crate, for user mode with clippy and with `options`,
/// which spaces separate; a warning is an error.
fn clippy(env: &Env, name: &str, options: &str, target: &str) -> Case {
    let all = "CONFIG_64BIT=y CONFIG_EXPERT=y CONFIG_MODULES=y CONFIG_RUST=y CONFIG_WERROR=y";
    let fragment = format!("{all} {options}").replace(' ', "\n");
    let build = Build::user_mode(env, &format!("clippy-{name}"));
    let name = format!("clippy {name}");
    let built = ui::step(&name, |step| {
        build.configure(&fragment, step)?;
        build.make(&["CLIPPY=1", target], "clippy", step)
    });
    Case::of_result(name, built)
}

/// The documentation of the kernel crate, without a warning about a file in `kernel/block/`.
fn rustdoc(env: &Env) -> Result<Case> {
    build::kernel(env, Flavour::Plain)?;
    let log = env.log("rustdoc");
    ui::step("rustdoc", |step| Build::of(env, Flavour::Plain).make(&["rustdoc"], "rustdoc", step))?;
    let text = fs::read_to_string(&log)?;
    let is_ours = |line: &&str| line.contains("--> ") && line.contains("kernel/block/");
    let ours: Vec<&str> = text.lines().filter(is_ours).collect();
    if !ours.is_empty() {
        eprintln!("--- rustdoc, see {}:\n{}", log.display(), ours.join("\n"));
    }
    Ok(Case::of("rustdoc", ours.is_empty()))
}

/// The kernel crate, the block layer and the samples for a machine whose pointers have 32 bits.
fn arm(env: &Env) -> Result<Case> {
    let fragment = build::fragment(env, &["arm"])?;
    let build = Build { args: &["ARCH=arm", "-s"], ..Build::named(env, "arm") };
    let built = ui::step("build for 32-bit Arm", |step| {
        build.configure(&fragment, step)?;
        build.make(&["prepare", "block/", "samples/rust/"], "arm", step)
    });
    Ok(Case::of_result("32-bit Arm", built))
}

pub fn run(env: &Env) -> Result<Vec<Case>> {
    build::prepare(env)?;
    let plain = build::fragment(env, &["plain"])?;
    let is_sample = |line: &&str| line.starts_with("CONFIG_SAMPLE");
    let samples: Vec<&str> = plain.lines().filter(is_sample).collect();
    let with = "CONFIG_BLOCK=y CONFIG_SYSFS=y CONFIG_BLK_FILTER=y";
    // changetrack needs debugfs.
    let samples = format!("{with} CONFIG_DEBUG_FS=y {}", samples.join(" "));
    Ok(vec![
        clippy(env, "crate-without-block", "CONFIG_BLOCK=n", "prepare"),
        clippy(env, "crate-without-filters", "CONFIG_BLOCK=y CONFIG_BLK_FILTER=n", "prepare"),
        clippy(env, "crate", with, "prepare"),
        clippy(env, "samples", &samples, "samples/rust/"),
        rustdoc(env)?,
        arm(env)?,
    ])
}
