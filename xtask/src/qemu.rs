// SPDX-License-Identifier: GPL-2.0
//! One run of a guest under QEMU.
//!
//! The root is a disk image whose changes are thrown away. Other directories reach the guest over
//! 9p: the run's control directory (the init script and the command go in, the status comes out),
//! modules, selftests, what the user shares. The kernel log goes to the serial port and so into a
//! file, the command's output to a virtio console and so to us: the two never mix.

use crate::{
    build::Kernel,
    env::{canonical, remove_all, Env},
    logscan, toolchain, ui,
};
use anyhow::{bail, Context, Result};
use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Read, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{channel, RecvTimeoutError},
    thread,
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
    pub timeout: Duration,
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
            timeout: Duration::from_secs(600),
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
            let status = self.status;
            bail!("the command in the guest failed with status {status}");
        }
        Ok(())
    }
}

/// Kills QEMU when it goes out of scope, so that no way out leaves one behind. If all of xtask is
/// killed, the kernel kills QEMU (`setpriv --pdeathsig`, `unshare --kill-child`).
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A directory for one run. What runs that are over left is removed first.
fn run_dir(env: &Env) -> Result<PathBuf> {
    let runs = env.cache.join("runs");
    fs::create_dir_all(&runs)?;
    for entry in fs::read_dir(&runs)?.flatten() {
        if !Path::new("/proc").join(entry.file_name()).exists() {
            remove_all(&entry.path())?;
        }
    }
    let dir = runs.join(std::process::id().to_string());
    remove_all(&dir)?;
    fs::create_dir_all(dir.join("ctl"))?;
    Ok(dir)
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
        let mut qemu = env.tool("timeout");
        qemu.args(["-s", "KILL", "10", "qemu-system-x86_64"])
            .args(MACHINE.split(' '))
            .args(["-accel", "kvm", "-m", "512M", "-serial", "stdio"])
            .args(["-append", "console=ttyS0 panic=-1", "-kernel"])
            .arg(&kernel.image)
            .stdin(Stdio::null());
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
    let mut bind: Vec<PathBuf> = Vec::new();
    let mut args: Vec<String> = Vec::new();
    let mut arg = |name: &str, value: String| args.extend([name.to_string(), value]);

    let accel = match guest.icount {
        true => "tcg",
        false => accelerator(env, guest.kernel)?,
    };
    if guest.icount {
        arg("-icount", "shift=0,sleep=off".into());
        // The same random numbers, and the same time, in each run.
        arg("-seed", "1".into());
        arg("-rtc", "base=2026-01-01,clock=vm".into());
    }
    let cpus = guest.cpus;
    let threads = match cpus > 1 && accel == "tcg" && !guest.icount {
        true => ",thread=multi",
        false => "",
    };
    arg("-accel", format!("{accel}{threads}"));
    arg("-smp", cpus.to_string());
    arg("-m", format!("{}M", guest.memory));
    arg("-kernel", guest.kernel.image.display().to_string());
    arg("-append", format!("{CMDLINE} {}", guest.cmdline));
    arg("-serial", with_path("file:", &dir.join("console.log")));
    arg("-device", "virtio-serial-pci".into());
    arg("-chardev", "stdio,id=hvc0,signal=off".into());
    arg("-device", "virtconsole,chardev=hvc0".into());

    let options = "if=none,id=d0,format=raw,snapshot=on,file=";
    arg("-drive", with_path(options, root));
    arg("-device", "virtio-blk-pci,drive=d0".into());
    for (i, (image, writable)) in (1..).zip(&guest.disks) {
        let image = canonical(image, "disk image")?;
        let format = if is_qcow2(&image) { "qcow2" } else { "raw" };
        let mode = if *writable { "" } else { ",read-only=on" };
        let options = format!("if=none,id=d{i},format={format},discard=unmap{mode},file=");
        arg("-drive", with_path(&options, &image));
        arg("-device", format!("virtio-blk-pci,drive=d{i}"));
        bind.extend(image.parent().map(Path::to_path_buf));
    }

    let mut share = |tag: &str, path: &Path, mode: &str| {
        let options = format!("local,id={tag},security_model=none,multidevs=remap{mode},path=");
        arg("-fsdev", with_path(&options, path));
        let device = format!("virtio-9p-pci,fsdev={tag},mount_tag={tag}");
        arg("-device", device);
    };
    share("ctl", &dir.join("ctl"), "");
    share("modules", &guest.kernel.modules, ",readonly=on");
    if let Some(path) = &guest.share {
        let path = canonical(path, "directory")?;
        let out = path.join("out");
        fs::create_dir_all(&out).with_context(|| format!("cannot make {}", out.display()))?;
        share("share", &path, ",readonly=on");
        share("out", &out, "");
        bind.push(path);
    }

    bind.retain(|path| !path.starts_with(&env.cache) && !path.starts_with("/dev"));
    let bind: Vec<&Path> = bind.iter().map(PathBuf::as_path).collect();
    let mut qemu = env.tool_in(&env.cache, "qemu-system-x86_64", &bind);
    qemu.args(MACHINE.split(' ')).args(args);
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
    for (name, set) in [
        ("interactive", guest.interactive),
        ("kmemleak", guest.kmemleak),
        ("share", guest.share.is_some()),
    ] {
        if set {
            fs::write(ctl.join(name), "")?;
        }
    }
    let errors = dir.join("qemu.log");
    let mut qemu = command(env, guest, &dir, &root)?;
    qemu.stderr(File::create(&errors)?);
    let timeout = (!guest.interactive).then_some(guest.timeout);
    let ended = supervise(&mut qemu, timeout, &mut line)?;

    let console = dir.join("console.log");
    let read = |path: &Path| {
        let bytes = fs::read(path).unwrap_or_default();
        String::from_utf8_lossy(&bytes).replace('\r', "")
    };
    let (log, status) = (read(&console), read(&ctl.join("status")));
    let splats = logscan::scan(&log);
    let Ok(status) = status.trim().parse() else {
        let errors = read(&errors);
        bail!(
            "{}\nThe whole log: {}",
            why_no_status(ended, guest.timeout, &log, &splats, &errors),
            console.display()
        );
    };
    if splats.is_empty() {
        remove_all(&dir)?;
    }
    Ok(Outcome { status, splats, log, console })
}

/// Runs QEMU to its end, or to the time-out: false. With a time-out, its output goes to `line`;
/// without one, it has our terminal.
fn supervise(
    qemu: &mut Command,
    timeout: Option<Duration>,
    line: &mut dyn FnMut(&str),
) -> Result<bool> {
    let Some(timeout) = timeout else {
        let mut child = Running(qemu.spawn().context("cannot start QEMU")?);
        child.0.wait()?;
        return Ok(true);
    };
    let start = Instant::now();
    qemu.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = Running(qemu.spawn().context("cannot start QEMU")?);
    let mut pipe = BufReader::new(child.0.stdout.take().context("no output of QEMU")?);
    let (send, receive) = channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        while matches!(pipe.read_until(b'\n', &mut bytes), Ok(1..)) {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            if send.send(text).is_err() {
                break;
            }
            bytes.clear();
        }
    });
    while let Some(left) = timeout.checked_sub(start.elapsed()) {
        match receive.recv_timeout(left) {
            Ok(text) => line(&text),
            Err(RecvTimeoutError::Timeout) => break,
            Err(RecvTimeoutError::Disconnected) => {
                child.0.wait()?;
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// What to say of a guest that left no status of its command.
fn why_no_status(
    ended: bool,
    timeout: Duration,
    log: &str,
    splats: &[String],
    errors: &str,
) -> String {
    let why = if !ended {
        let seconds = timeout.as_secs();
        format!("the guest hangs: it did not end within {seconds} s")
    } else if !log.contains("Linux version") {
        return format!("QEMU could not start the guest:\n{}", errors.trim());
    } else if log.contains("blkfilter: user space is up") {
        "the guest died while the command ran".into()
    } else {
        "the guest died before user space was up".into()
    };
    let lines: Vec<&str> = log.lines().collect();
    let end = lines[lines.len().saturating_sub(25)..].join("\n");
    match splats.is_empty() {
        true => format!("{why}. The end of its log:\n{end}"),
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

    fn sh(script: &str, timeout: u64) -> (bool, String) {
        let mut said = String::new();
        let ended = supervise(
            Command::new("sh").args(["-c", script]),
            Some(Duration::from_millis(timeout)),
            &mut |line| said += line,
        );
        (ended.unwrap(), said)
    }

    #[test]
    fn output_comes_line_by_line_to_the_last_byte() {
        assert_eq!(sh("echo one; printf two", 10000), (true, "one\ntwo".into()));
    }

    #[test]
    fn a_guest_that_hangs_times_out_and_is_gone() {
        let start = Instant::now();
        let (ended, said) = sh("echo $$; exec sleep 1000", 500);
        assert!(!ended);
        assert!(start.elapsed() < Duration::from_secs(10));
        assert!(!Path::new("/proc").join(said.trim()).exists());
    }

    #[test]
    fn each_way_to_die_has_its_message() {
        let why = |ended, log: &str, splats: &[String]| {
            why_no_status(ended, Duration::from_secs(7), log, splats, "no such device\n")
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
