// SPDX-License-Identifier: GPL-2.0
//! The kernel's own checks of what we would mail.

use crate::{
    build,
    env::Env,
    ktap::{Case, Outcome},
    series, tree, ui,
};
use anyhow::Result;
use std::process::Command;

/// Not asked for: a sign-off is the poster's; MAINTAINERS comes in the last patch;
/// `Kconfig.blkfilter` has a `Kconfig` in its name; the environment of a uevent is not const; flags
/// look like their neighbours; macros of trace events are laid out as in other trace headers.
const CHECKPATCH: [&str; 4] = [
    "--strict",
    "--no-signoff",
    "--show-types",
    "--ignore=FILE_PATH_CHANGES,EMBEDDED_FILENAME,STATIC_CONST_CHAR_ARRAY,BIT_MACRO,OPEN_ENDED_LINE,PARENTHESIS_ALIGNMENT",
];

fn case(name: String, mut command: Command) -> Result<Case> {
    let out = command.output()?;
    let good = out.status.success();
    if !good {
        eprintln!("--- {name}:");
        eprint!("{}", String::from_utf8_lossy(&out.stdout));
        eprint!("{}", String::from_utf8_lossy(&out.stderr));
    }
    Ok(Case {
        name,
        outcome: if good { Outcome::Pass } else { Outcome::Fail },
    })
}

/// checkpatch of each patch; rustfmt and kernel-doc of each file of ours.
pub fn check(env: &Env) -> Result<Vec<Case>> {
    build::prepare(env)?;
    ui::step("the kernel's own checks", |_| {
        let mut cases = Vec::new();
        let dir = env.cache.join("style");
        crate::env::remove_all(&dir)?;
        for name in &series::write(env, &dir, 1)?[1..] {
            let mut command = env.tool_in(&env.linux(), "scripts/checkpatch.pl", &[]);
            command.args(CHECKPATCH).arg(dir.join(name));
            cases.push(case(format!("checkpatch {name}"), command)?);
        }
        for file in tree::series(&env.repo)?.into_iter().flat_map(|c| c.files) {
            // These have lines that exclude each other.
            if file.contains("/compile_fail/") {
                continue;
            }
            let mut command = if file.ends_with(".rs") {
                let mut command = env.tool_in(&env.linux(), "rustfmt", &[]);
                command.args([
                    "--check",
                    "--edition",
                    "2021",
                    "--config-path",
                    ".rustfmt.toml",
                ]);
                command
            } else if (file.starts_with("block/blk-filter") && file.ends_with(".c"))
                || file == "include/linux/blk-filter.h"
            {
                let mut command = env.tool_in(&env.linux(), "scripts/kernel-doc", &[]);
                command.args(["-none", "-Werror"]);
                command
            } else {
                continue;
            };
            let tool = if file.ends_with(".rs") {
                "rustfmt"
            } else {
                "kernel-doc"
            };
            command.arg(&file);
            cases.push(case(format!("{tool} {file}"), command)?);
        }
        Ok(cases)
    })
}
