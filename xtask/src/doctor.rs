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
    let path = |path: &Path| path.exists().then(|| path.display().to_string());
    // Of each part: the name, the state if the part is there, the cure if the part is missing.
    let mut parts = vec![("cache", Some(env.cache.display().to_string()), String::new())];
    let has_tools = env.toolchain == Toolchain::Host || env.root().join(".blkfilter").exists();
    if env.toolchain == Toolchain::Root {
        parts.push(("toolchain", path(&env.root()).filter(|_| has_tools), MAKE.into()));
        let is_root = ui::output(Command::new("id").arg("-u"))?.trim() == "0";
        parts.push(("root", is_root.then(|| "yes".into()), "run as root".into()));
    } else {
        let missing = toolchain::missing_host_tools();
        let there = missing.is_empty().then(|| "this machine's own".into());
        parts.push(("toolchain", there, format!("install {}", missing.join(" "))));
    }
    for tool in ["rustc", "clang", "bindgen", "qemu-system-x86_64"].iter().filter(|_| has_tools) {
        let version = ui::output(env.tool(tool).arg("--version")).ok();
        parts.push((tool, version, "remove the toolchain root: it is made anew".into()));
    }
    let built = |kernel: &str| fs::read_to_string(env.dir(kernel).join("blkfilter-built")).ok();
    let accelerator = match fs::read_to_string(env.cache.join("accel")) {
        Ok(text) if text.starts_with("kvm") => "KVM",
        Ok(_) => "emulation (TCG)",
        Err(_) => "found out at the first boot",
    };
    let kvm = path(Path::new("/dev/kvm")).unwrap_or("no /dev/kvm".into());
    parts.extend([
        ("kernel source", source::version(&env.linux()).ok(), MAKE.into()),
        ("plain kernel", built("build/plain"), MAKE.into()),
        ("debug kernel", built("build/debug"), MAKE.into()),
        ("guest image", path(&env.cache.join("guest/root.img")), MAKE.into()),
        ("accelerator", Some(format!("{accelerator}; {kvm}")), String::new()),
    ]);
    for (name, there, cure) in &parts {
        match there {
            Some(text) => println!("{name:<18} {}", text.lines().next().unwrap_or_default()),
            None => println!("{name:<18} MISSING: {cure}"),
        }
    }
    Ok(parts.iter().any(|(_, there, _)| there.is_none()) as i32)
}
