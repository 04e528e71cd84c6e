// SPDX-License-Identifier: GPL-2.0
//! `cargo xtask doctor`: what of the set-up is there.

use crate::{
    env::{Env, Toolchain},
    source, toolchain, ui,
};
use anyhow::Result;
use std::{fs, path::Path};

/// Prints a line for each part of the set-up; 0 if nothing is missing.
pub fn run(env: &Env) -> Result<i32> {
    let mut missing = 0;
    let mut line = |what: &str, there: Option<String>, cure: &str| match there {
        Some(text) => println!("{what:<18} {text}"),
        None => {
            missing += 1;
            println!("{what:<18} MISSING: {cure}");
        }
    };
    let first = |text: Result<String>| {
        let text = text.ok()?;
        Some(text.lines().next()?.trim().to_string())
    };
    let make = "`cargo xtask demo` (or build, or test) makes it";

    line("cache", Some(env.cache.display().to_string()), "");
    if env.toolchain == Toolchain::Host {
        let tools = toolchain::missing_host_tools();
        let there = tools.is_empty().then(|| "this machine's own".to_string());
        line("toolchain", there, &format!("install {}", tools.join(" ")));
    } else {
        let there = env.root().join(".blkfilter").exists();
        line(
            "toolchain",
            there.then(|| env.root().display().to_string()),
            make,
        );
        let root = ui::output(std::process::Command::new("id").arg("-u"));
        let root = root.is_ok_and(|id| id.trim() == "0");
        line("root", root.then(|| "yes".into()), "run as root");
    }
    if env.toolchain == Toolchain::Host || env.root().join(".blkfilter").exists() {
        for tool in ["rustc", "clang", "bindgen", "qemu-system-x86_64"] {
            let version = ui::output(env.tool(tool).arg("--version"));
            line(
                tool,
                first(version),
                "remove the toolchain root: it is made anew",
            );
        }
    }
    let tree = env.linux();
    let version = tree.exists().then(|| source::version(&tree).ok()).flatten();
    line("kernel source", version, make);
    for flavour in ["plain", "debug"] {
        let built = env
            .cache
            .join(format!("build/{flavour}{}/blkfilter-built", env.suffix()));
        line(
            &format!("{flavour} kernel"),
            first(Ok(fs::read_to_string(built).unwrap_or_default())),
            make,
        );
    }
    let image = env.cache.join("guest/root.img");
    line(
        "guest image",
        image.exists().then(|| image.display().to_string()),
        make,
    );
    let kvm = if Path::new("/dev/kvm").exists() {
        "there"
    } else {
        "not there"
    };
    let accel = match fs::read_to_string(env.cache.join("accel")) {
        Ok(text) if text.starts_with("kvm") => "KVM",
        Ok(_) => "emulation (TCG)",
        Err(_) => "found out at the first boot",
    };
    line(
        "accelerator",
        Some(format!("{accel}; /dev/kvm is {kvm}")),
        "",
    );
    Ok((missing > 0) as i32)
}
