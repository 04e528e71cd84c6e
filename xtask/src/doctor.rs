// SPDX-License-Identifier: GPL-2.0
//! `cargo xtask doctor`: which parts of the set-up are there.

use crate::{
    env::{Env, Toolchain},
    source, toolchain, ui,
};
use anyhow::Result;
use std::{fs, path::Path, process::Command};

const MAKE: &str = "`cargo xtask demo` (or build, or test) makes it";

/// Prints a line for each part of the set-up; 0 if nothing is missing.
pub fn run(env: &Env) -> Result<i32> {
    let mut missing = 0;
    let mut line = |name: &str, there: Option<String>, cure: &str| match there {
        Some(text) => println!("{name:<18} {}", text.lines().next().unwrap_or_default()),
        None => {
            missing += 1;
            println!("{name:<18} MISSING: {cure}");
        }
    };
    let path = |path: &Path| path.exists().then(|| path.display().to_string());

    line("cache", Some(env.cache.display().to_string()), "");
    let is_root = env.toolchain == Toolchain::Root;
    let has_tools = !is_root || env.root().join(".blkfilter").exists();
    if is_root {
        let root = has_tools.then(|| env.root().display().to_string());
        line("toolchain", root, MAKE);
        let id = ui::output(Command::new("id").arg("-u"))?;
        line("root", (id.trim() == "0").then(|| "yes".into()), "run as root");
    } else {
        let tools = toolchain::missing_host_tools();
        let there = tools.is_empty().then(|| "this machine's own".into());
        line("toolchain", there, &format!("install {}", tools.join(" ")));
    }
    for tool in ["rustc", "clang", "bindgen", "qemu-system-x86_64"] {
        if has_tools {
            let version = ui::output(env.tool(tool).arg("--version")).ok();
            line(tool, version, "remove the toolchain root: it is made anew");
        }
    }
    line("kernel source", source::version(&env.linux()).ok(), MAKE);
    for flavour in ["plain", "debug"] {
        let stamp = env.dir(&format!("build/{flavour}")).join("blkfilter-built");
        let commit = fs::read_to_string(stamp).ok();
        line(&format!("{flavour} kernel"), commit, MAKE);
    }
    line("guest image", path(&env.cache.join("guest/root.img")), MAKE);
    let accelerator = match fs::read_to_string(env.cache.join("accel")) {
        Ok(text) if text.starts_with("kvm") => "KVM",
        Ok(_) => "emulation (TCG)",
        Err(_) => "found out at the first boot",
    };
    let kvm = path(Path::new("/dev/kvm")).unwrap_or("no /dev/kvm".into());
    line("accelerator", Some(format!("{accelerator}; {kvm}")), "");
    Ok((missing > 0) as i32)
}
