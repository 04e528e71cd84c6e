// SPDX-License-Identifier: GPL-2.0
//! One run of a guest under QEMU.
//!
//! The root is a disk image whose changes are thrown away. Other directories reach the guest over
//! 9p: the run's control directory (the init script and the command go in, the status comes out),
//! modules, selftests, what the user shares. The kernel log goes to the serial port and so into a
//! file, the command's output to a virtio console and so to us: the two never mix.

use crate::{
    build::Kernel,
    env::{canonical, names_in, remove_all, Env},
    logscan, toolchain, ui,
};
use anyhow::{bail, Context, Result};
use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Read, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

const INIT: &str = include_str!("../guest/init.sh");

/// Four levels of page tables: with five, KASAN misjudges addresses in an interrupt that comes while
/// identify_cpu() rebuilds the feature bits.
const MACHINE: &str =
    "-M q35 -cpu max,la57=off -nodefaults -no-user-config -no-reboot -display none";

/// A panic or an oops ends the run: QEMU leaves instead of booting again.
const CMDLINE: &str = "root=/dev/vda rw init=/sbin/blkfilter-init console=ttyS0 loglevel=7 \
    panic=-1 oops=panic printk.devkmsg=on no_timer_check tsc=reliable";

/// Counts the guests of this process, several of which may run at the same time.
static RUNS: AtomicU32 = AtomicU32::new(0);

/// An emulated processor that copies and clears memory with one instruction does so byte by byte; with
/// these features off the kernel uses loops of whole words.
const EMULATED: &str = "-cpu max,la57=off,erms=off,fsrm=off";

pub struct Guest<'a> {
    pub kernel: &'a Kernel,
    /// What bash runs there, as root.
    pub command: String,
    /// Images, and whether they are written to: `/dev/vdb` and so on.
    pub disks: Vec<(PathBuf, bool)>,
    /// Shown, read-only, on `/mnt/share`; but `out` in it can be written to.
    pub share: Option<PathBuf>,
    pub cpus: u32,
    /// MiB.
    pub memory: u32,
    /// One instruction is one nanosecond: slow, and the same every time.
    pub icount: bool,
    /// Seconds.
    pub timeout: u64,
    /// A person sits there, without a time-out.
    pub interactive: bool,
    /// Look for leaks at the end; takes some ten seconds.
    pub kmemleak: bool,
    /// More for the kernel's command line.
    pub cmdline: String,
}

impl<'a> Guest<'a> {
    pub fn new(kernel: &'a Kernel, command: impl Into<String>) -> Self {
        Self {
            kernel,
            command: command.into(),
            disks: Vec::new(),
            share: None,
            cpus: 2,
            memory: 2048,
            icount: false,
            timeout: 600,
            interactive: false,
            kmemleak: false,
            cmdline: String::new(),
        }
    }
}

pub struct Outcome {
    /// Of the command, as a shell says it.
    pub status: i32,
    /// What is wrong with the kernel log.
    pub splats: Vec<String>,
    /// The whole kernel log.
    pub log: String,
    /// The file it is kept in, if something is wrong.
    console: PathBuf,
}

impl Outcome {
    /// An error if the log is not clean or the command failed.
    pub fn check(&self) -> Result<()> {
        if !self.splats.is_empty() {
            bail!("in the kernel log ({}):\n{}", self.console.display(), self.splats.join("\n\n"));
        }
        if self.status != 0 {
            bail!("the command in the guest failed with status {}", self.status);
        }
        Ok(())
    }
}

/// A directory for one run. What runs that are over left is removed first.
fn run_dir(env: &Env) -> Result<PathBuf> {
    let runs = env.cache.join("runs");
    fs::create_dir_all(&runs)?;
    for run in names_in(&runs)? {
        let process = run.split('-').next().unwrap_or_default();
        if !Path::new("/proc").join(process).exists() {
            remove_all(&runs.join(run))?;
        }
    }
    let number = RUNS.fetch_add(1, Ordering::Relaxed);
    let dir = runs.join(format!("{}-{number}", std::process::id()));
    remove_all(&dir)?;
    fs::create_dir_all(dir.join("ctl"))?;
    Ok(dir)
}

/// A program of the toolchain that is killed after some seconds, or never if `seconds` is 0. No way
/// out of xtask leaves the program behind: `setpriv` makes the kernel kill timeout if xtask is
/// killed, and the program if timeout is killed.
fn limited(env: &Env, seconds: u64, program: &str, bind: &[&Path]) -> Command {
    let mut command = env.tool_in(&env.cache, "timeout", bind);
    command.args("--foreground -s KILL".split(' ')).arg(seconds.to_string());
    command.args("setpriv --pdeathsig KILL".split(' ')).arg(program);
    command
}

/// The accelerator that works here. A `/dev/kvm` that opens proves nothing, so something is booted
/// with it once; the answer holds until this machine boots again.
pub fn accelerator(env: &Env, kernel: &Kernel) -> Result<&'static str> {
    if !Path::new("/dev/kvm").exists() {
        return Ok("tcg");
    }
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let memo = env.cache.join("accel");
    let known = fs::read_to_string(&memo).unwrap_or_default();
    let is_known = |accel: &&str| known == format!("{accel} {boot}");
    if let Some(accel) = ["kvm", "tcg"].into_iter().find(is_known) {
        return Ok(accel);
    }
    let accel = ui::step("see whether KVM works here", |_| {
        // A kernel that boots panics, because there is no root file system, and the panic ends QEMU.
        let mut qemu = limited(env, 10, "qemu-system-x86_64", &[]);
        qemu.args(MACHINE.split(' ')).args("-accel kvm -m 512M -serial stdio -kernel".split(' '));
        qemu.arg(&kernel.image).args(["-append", "console=ttyS0 panic=-1"]).stdin(Stdio::null());
        let out = qemu.output().context("cannot start QEMU")?;
        let boots = String::from_utf8_lossy(&out.stdout).contains("Kernel panic");
        Ok(if boots { "kvm" } else { "tcg" })
    })?;
    if accel == "tcg" {
        eprintln!("    /dev/kvm is there, but a guest does not boot with it: emulating");
    }
    fs::write(memo, format!("{accel} {boot}"))?;
    Ok(accel)
}

/// An option of QEMU that ends with a path; a doubled comma is a comma there.
fn with_path(options: &str, path: &Path) -> String {
    format!("{options}{}", path.display().to_string().replace(',', ",,"))
}

fn is_qcow2(image: &Path) -> bool {
    let mut magic = [0; 4];
    let read = File::open(image).and_then(|mut file| file.read_exact(&mut magic));
    read.is_ok() && &magic == b"QFI\xfb"
}

fn command(env: &Env, guest: &Guest, dir: &Path, root: &Path) -> Result<Command> {
    let disk = |(image, _): &(PathBuf, bool)| canonical(image, "disk image");
    let disks = guest.disks.iter().map(disk).collect::<Result<Vec<_>>>()?;
    let shared = guest.share.as_deref().map(|dir| canonical(dir, "directory")).transpose()?;
    let is_there = |path: &Path| path.starts_with(&env.cache) || path.starts_with("/dev");
    let dirs = disks.iter().filter_map(|image| image.parent()).chain(shared.as_deref());
    let bind: Vec<&Path> = dirs.filter(|dir| !is_there(dir)).collect();
    let timeout = if guest.interactive { 0 } else { guest.timeout };
    let mut qemu = limited(env, timeout, "qemu-system-x86_64", &bind);

    let accel = match guest.icount {
        // The same random numbers, and the same time, in each run.
        true => "tcg -icount shift=0,sleep=off -seed 1 -rtc base=2026-01-01,clock=vm",
        false => match accelerator(env, guest.kernel)? {
            "tcg" if guest.cpus > 1 => "tcg,thread=multi",
            accel => accel,
        },
    };
    let words = format!(
        "{MACHINE} -accel {accel} -smp {} -m {}M -device virtio-serial-pci \
         -chardev stdio,id=hvc0,signal=off -device virtconsole,chardev=hvc0",
        guest.cpus, guest.memory
    );
    qemu.args(words.split(' '));
    // Instructions are counted on a processor as others have it.
    if accel.starts_with("tcg") && !guest.icount {
        qemu.args(EMULATED.split(' '));
    }
    qemu.arg("-kernel").arg(&guest.kernel.image);
    let mut arg = |name: &str, value: String| _ = qemu.args([name, &value]);
    arg("-append", format!("{CMDLINE} {}", guest.cmdline));
    arg("-serial", with_path("file:", &dir.join("console.log")));

    arg("-drive", with_path("if=none,id=d0,format=raw,snapshot=on,file=", root));
    arg("-device", "virtio-blk-pci,drive=d0".into());
    for (i, (image, (_, writable))) in (1..).zip(disks.iter().zip(&guest.disks)) {
        let format = if is_qcow2(image) { "qcow2" } else { "raw" };
        let mode = if *writable { "" } else { ",read-only=on" };
        let options = format!("if=none,id=d{i},format={format},discard=unmap{mode},file=");
        arg("-drive", with_path(&options, image));
        arg("-device", format!("virtio-blk-pci,drive=d{i}"));
    }

    let mut share = |tag: &str, path: &Path, mode: &str| {
        let options = format!("local,id={tag},security_model=none,multidevs=remap{mode},path=");
        arg("-fsdev", with_path(&options, path));
        arg("-device", format!("virtio-9p-pci,fsdev={tag},mount_tag={tag}"));
    };
    share("ctl", &dir.join("ctl"), "");
    share("modules", &guest.kernel.modules, ",readonly=on");
    if let Some(path) = &shared {
        let out = path.join("out");
        fs::create_dir_all(&out).with_context(|| format!("cannot make {}", out.display()))?;
        share("share", path, ",readonly=on");
        share("out", &out, "");
    }
    Ok(qemu)
}

/// Boots the guest and runs its command. Each line that the command prints goes to `line` as it
/// comes. An interactive guest has our terminal instead.
pub fn run(env: &Env, guest: &Guest, mut line: impl FnMut(&str)) -> Result<Outcome> {
    let root = toolchain::guest_image(env)?;
    let dir = run_dir(env)?;
    let ctl = dir.join("ctl");
    fs::write(ctl.join("init"), INIT)?;
    fs::write(ctl.join("cmd"), &guest.command)?;
    let flags = [("kmemleak", guest.kmemleak), ("share", guest.share.is_some())];
    for (name, is_set) in flags.into_iter().chain([("interactive", guest.interactive)]) {
        if is_set {
            fs::write(ctl.join(name), "")?;
        }
    }
    let errors = dir.join("qemu.log");
    let mut qemu = command(env, guest, &dir, &root)?;
    qemu.stderr(File::create(&errors)?);
    let ended = if guest.interactive {
        qemu.status().context("cannot start QEMU")?;
        true
    } else {
        let start = Instant::now();
        watch(&mut qemu, &mut line)?;
        start.elapsed() < Duration::from_secs(guest.timeout)
    };

    let console = dir.join("console.log");
    let read = |path: &Path| {
        let bytes = fs::read(path).unwrap_or_default();
        String::from_utf8_lossy(&bytes).replace('\r', "")
    };
    let (log, status) = (read(&console), read(&ctl.join("status")));
    let splats = logscan::scan(&log);
    let Ok(status) = status.trim().parse() else {
        let why = why_no_status(ended, guest.timeout, &log, &splats, &read(&errors));
        bail!("{why}\nThe whole log: {}", console.display());
    };
    if splats.is_empty() {
        remove_all(&dir)?;
    }
    Ok(Outcome { status, splats, log, console })
}

/// Runs a program to its end; each line of its output goes to `line`.
fn watch(program: &mut Command, line: &mut dyn FnMut(&str)) -> Result<()> {
    program.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = program.spawn().context("cannot start QEMU")?;
    let mut pipe = BufReader::new(child.stdout.take().context("no output of QEMU")?);
    let mut bytes = Vec::new();
    while matches!(pipe.read_until(b'\n', &mut bytes), Ok(1..)) {
        line(&String::from_utf8_lossy(&bytes));
        bytes.clear();
    }
    child.wait()?;
    Ok(())
}

/// What to say of a guest that left no status of its command.
fn why_no_status(ended: bool, timeout: u64, log: &str, splats: &[String], errors: &str) -> String {
    let why = if !ended {
        format!("the guest hangs: it did not end within {timeout} s")
    } else if !log.contains("Linux version") {
        return format!("QEMU could not start the guest:\n{}", errors.trim());
    } else if log.contains("blkfilter: user space is up") {
        "the guest died while the command ran".into()
    } else {
        "the guest died before user space was up".into()
    };
    match splats.is_empty() {
        true => format!("{why}. The end of its log:\n{}", ui::last_lines(log, 25)),
        false => format!("{why}. In its log:\n{}", splats.join("\n\n")),
    }
}

/// For a guest whose output is just shown.
pub fn print(line: &str) {
    print!("{line}");
    let _ = std::io::stdout().flush();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::Toolchain;

    /// What a script prints until it ends or `seconds` are over.
    fn sh(script: &str, seconds: u64) -> String {
        let mut env = Env::new(Toolchain::Host, None).unwrap();
        env.cache = std::env::temp_dir();
        let mut said = String::new();
        let mut command = limited(&env, seconds, "sh", &[]);
        watch(command.args(["-c", script]), &mut |line| said += line).unwrap();
        said
    }

    #[test]
    fn output_comes_line_by_line_to_the_last_byte() {
        assert_eq!(sh("echo one; printf two", 0), "one\ntwo");
    }

    #[test]
    fn a_guest_that_hangs_times_out_and_is_gone() {
        let start = Instant::now();
        let process = sh("echo $$; exec sleep 1000", 1);
        assert!((1..10).contains(&start.elapsed().as_secs()));
        assert!(!Path::new("/proc").join(process.trim()).exists());
    }

    #[test]
    fn each_way_to_die_has_its_message() {
        let why = |ended, log: &str, splats: &[String]| {
            why_no_status(ended, 7, log, splats, "no such device\n")
        };
        let booted = "[    0.0] Linux version 7.3.4\n";
        let up = format!("{booted}[    3.0] blkfilter: user space is up\n");
        assert!(why(true, "", &[]).ends_with("QEMU could not start the guest:\nno such device"));
        assert!(why(false, &up, &[]).contains("did not end within 7 s"));
        assert!(why(true, booted, &[]).contains("before user space"));
        assert!(why(true, &up, &["Kernel panic".into()]).contains("while the command ran"));
        assert!(why(true, &up, &["Kernel panic".into()]).ends_with("Kernel panic"));
    }

    #[test]
    fn commas_in_paths() {
        assert_eq!(with_path("file=", Path::new("/a,b")), "file=/a,,b");
    }
}
