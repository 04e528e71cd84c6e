// SPDX-License-Identifier: GPL-2.0
//! The toolchain root and the guest's root: two Debian 13 systems made by mmdebstrap.

use crate::{
    env::{remove_all, stamped, Env, Toolchain},
    ui,
};
use anyhow::{bail, Context, Result};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

const SUITE: &str = "trixie";

/// What building, checking and emulating take. clang and rustc are of one LLVM version there.
const TOOLS: &str = "build-essential,clang,lld,llvm,rustc,rust-src,bindgen,rustfmt,rust-clippy,\
    bc,flex,bison,libelf-dev,libssl-dev,libdw-dev,pahole,python3,perl,git,kmod,cpio,rsync,\
    xz-utils,zstd,qemu-system-x86,qemu-utils,ccache,sparse,codespell,\
    python3-ply,python3-git,e2fsprogs,ca-certificates";

/// What a person, a test or the demo runs in the guest.
const GUEST: &str = "bash,coreutils,util-linux,util-linux-extra,bsdextrautils,fdisk,kmod,udev,\
    procps,mount,e2fsprogs,xfsprogs,fio,dmsetup,mdadm,lvm2,cryptsetup-bin,parted,stress-ng,\
    sg3-utils,gawk,bc,make,gcc,libc6-dev,blktrace,python3,git";

/// In GiB: what an empty cache grows to, with some air.
const NEEDED: u64 = 25;

/// The Debian archive that this machine's apt uses. `None` leaves the choice to mmdebstrap.
fn mirror() -> Option<String> {
    let mut apt = Command::new("apt-get");
    apt.args(["indextargets", "--no-release-info", "--format", "$(SITE)"]);
    let sites = ui::output(&mut apt).ok()?;
    let is_archive = |site: &&str| site.trim_end_matches('/').ends_with("/debian");
    sites.lines().find(is_archive).map(str::to_string)
}

fn is_missing(tool: &str) -> bool {
    Command::new(tool).arg("--version").output().is_err()
}

/// What has to be true before anything is set up; one clear message if it is not.
fn check_host(env: &Env) -> Result<()> {
    if ui::output(Command::new("id").arg("-u"))?.trim() != "0" {
        bail!("this needs root: it makes mount namespaces and a Debian root (try `sudo -E`)");
    }
    let mut df = Command::new("df");
    let df = ui::output(df.args(["--output=avail", "-BG"]).arg(&env.cache))?;
    let free = df.lines().nth(1).unwrap_or("").trim();
    if free.trim_end_matches('G').parse::<u64>()? < NEEDED {
        let cache = env.cache.display();
        bail!(
            "too little disk: {cache} has {free} and needs {NEEDED}G free (or set XDG_CACHE_HOME)"
        );
    }
    if is_missing("mmdebstrap") {
        if is_missing("apt-get") {
            bail!("mmdebstrap is missing and there is no apt-get to install it: install mmdebstrap, or use --toolchain host");
        }
        ui::step("install mmdebstrap on this machine (apt-get)", |step| {
            let script = "apt-get update && apt-get install -y --no-install-recommends mmdebstrap";
            let mut apt = Command::new("setpriv");
            apt.args(["--pdeathsig", "KILL", "sh", "-c", script]);
            ui::run_logged(apt.env("DEBIAN_FRONTEND", "noninteractive"), &env.log("apt-get"), step)
        })
        .context("is the package archive reachable?")?;
    }
    Ok(())
}

/// Makes a Debian root at `dir`. Its mounts are in a namespace of their own, so that removing what
/// an interruption left is safe.
fn mmdebstrap(env: &Env, name: &str, packages: &str, dir: &Path) -> Result<()> {
    let partial = dir.with_extension("partial");
    remove_all(&partial)?;
    fs::create_dir_all(&env.cache)?;
    ui::step(&format!("make the {name} (mmdebstrap)"), |step| {
        let mut command = Command::new("setpriv");
        let enter = "--pdeathsig KILL unshare -m -p -f --kill-child --mount-proc";
        command.args(enter.split(' ')).args("mmdebstrap --mode=root --variant=minbase".split(' '));
        command.arg(format!("--include={}", packages.replace(' ', ""))).arg(SUITE).arg(&partial);
        if let Some(mirror) = mirror() {
            command.arg(format!("deb {mirror} {SUITE} main"));
        }
        ui::run_logged(&mut command, &env.log(name), step)
    })
    .context("no Debian root: is the package archive reachable?")?;
    Ok(fs::rename(&partial, dir)?)
}

/// Makes the toolchain root if it is not there.
pub fn ensure(env: &Env) -> Result<()> {
    if env.toolchain == Toolchain::Host {
        return match missing_host_tools() {
            missing if missing.is_empty() => Ok(()),
            missing => bail!("--toolchain host: missing here: {}", missing.join(" ")),
        };
    }
    let (root, stamp) = (env.root(), env.root().join(".blkfilter"));
    if stamped(&stamp, TOOLS) {
        return Ok(());
    }
    check_host(env)?;
    remove_all(&root)?;
    mmdebstrap(env, "toolchain root", TOOLS, &root)?;
    Ok(fs::write(stamp, TOOLS)?)
}

/// Programs that a toolchain of the user's own has to have.
const HOST_TOOLS: &str =
    "clang ld.lld rustc bindgen make flex bison bc git ccache qemu-system-x86_64";

pub fn missing_host_tools() -> Vec<&'static str> {
    HOST_TOOLS.split(' ').filter(|tool| is_missing(tool)).collect()
}

/// Makes an image of an ext4 file system, of `size`, with more `options`.
pub fn mke2fs(
    env: &Env,
    image: &Path,
    size: &str,
    options: &[&str],
    step: &ui::Step,
) -> Result<()> {
    let partial = image.with_extension("partial");
    remove_all(&partial)?;
    let mut mke2fs = env.tool("mke2fs");
    mke2fs.args(["-q", "-t", "ext4"]).args(options).arg(&partial).arg(size);
    ui::run_logged(&mut mke2fs, &env.log("mke2fs"), step)?;
    Ok(fs::rename(partial, image)?)
}

/// Makes the guest's root image if it is not there: a raw ext4 file system.
pub fn guest_image(env: &Env) -> Result<PathBuf> {
    let dir = env.cache.join("guest");
    let (image, stamp) = (dir.join("root.img"), dir.join("stamp"));
    let stub = "#!/bin/sh\n\
        mkdir -p /mnt/ctl && mount -t 9p -o trans=virtio,version=9p2000.L ctl /mnt/ctl\n\
        exec /bin/bash /mnt/ctl/init\n";
    let want = format!("{GUEST}\n{stub}");
    if stamped(&stamp, &want) && image.exists() {
        return Ok(image);
    }
    check_host(env)?;
    fs::create_dir_all(&dir)?;
    let tree = dir.join("tree");
    remove_all(&tree)?;
    mmdebstrap(env, "guest root", GUEST, &tree)?;
    ui::step("make the guest's disk image", |step| {
        let init = tree.join("sbin/blkfilter-init");
        fs::write(&init, stub)?;
        ui::output(Command::new("chmod").arg("755").arg(&init))?;
        remove_all(&tree.join("var/lib/apt/lists"))?;
        remove_all(&tree.join("var/cache/apt"))?;
        fs::create_dir_all(tree.join("mnt/share"))?;
        let options = ["-O", "^has_journal", "-d", &tree.to_string_lossy()];
        mke2fs(env, &image, "3G", &options, step)?;
        remove_all(&tree)?;
        Ok(fs::write(&stamp, &want)?)
    })?;
    Ok(image)
}
