// SPDX-License-Identifier: GPL-2.0
//! Reports in a kernel log.
//!
//! There is no list of reports that are fine. A test that has to provoke one says so first, by
//! writing to `/dev/kmsg`:
//!
//! ```text
//! blkfilter-expect: begin <text>
//! blkfilter-expect: end
//! ```
//!
//! Between the two exactly one report must come, and `<text>` must be in one of its first lines.

/// What a report starts with, or has near its start; "|" is between two signs.
const SIGNS: &str = "cut here ]---|BUG:|WARNING:|UBSAN:|Oops:|kernel BUG at|Kernel panic|\
    general protection fault|possible circular locking|possible recursive locking|\
    inconsistent lock state|lock inversion|Invalid wait context|suspicious RCU usage|\
    detected stall|soft lockup|blocked for more than|scheduling while atomic|\
    sleeping function called|refcount_t:|corruption|ODEBUG:|Bad page state|\
    unreferenced object|new suspected memory leaks";

/// Lines of a report that are looked at and shown.
const SHOWN: usize = 30;

/// A line without its time and, with PRINTK_CALLER, its caller.
fn text(line: &str) -> &str {
    let line = line.trim();
    match line.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((time, rest)) if time.trim().starts_with(|c: char| c.is_ascii_digit()) => {
            rest.trim_start()
        }
        _ => line,
    }
}

/// All that is wrong with a log; empty if nothing is.
pub fn scan(log: &str) -> Vec<String> {
    let lines: Vec<&str> = log.lines().collect();
    let mut wrong = Vec::new();
    let mut expected: Option<(&str, usize)> = None;
    let mut at = 0;
    while at < lines.len() {
        let line = text(lines[at]);
        if let Some(what) = line.strip_prefix("blkfilter-expect: begin ") {
            if let Some((other, _)) = expected.replace((what, 0)) {
                wrong.push(format!("announced but never ended: {other}"));
            }
        } else if line.starts_with("blkfilter-expect: end") {
            match expected.take() {
                Some((_, 1)) => {}
                Some((what, count)) => {
                    wrong.push(format!("announced one report, {count} came: {what}"))
                }
                None => wrong.push("an announcement ends that never began".into()),
            }
        } else if SIGNS.split('|').any(|sign| line.contains(sign)) {
            let end = end_of_report(&lines, at);
            let head = &lines[at..end.min(at + 6)];
            match &mut expected {
                Some((what, count)) if head.iter().any(|line| line.contains(*what)) => *count += 1,
                _ => wrong.push(lines[at..end.min(at + SHOWN)].join("\n")),
            }
            at = end;
            continue;
        }
        at += 1;
    }
    if let Some((what, _)) = expected {
        wrong.push(format!("announced but never ended: {what}"));
    }
    wrong
}

/// The line after the report that starts at `at`.
fn end_of_report(lines: &[&str], at: usize) -> usize {
    let rest = lines[at + 1..].iter().take(200).map(|line| text(line));
    let rest: Vec<&str> = rest.take_while(|line| !line.starts_with("blkfilter-expect:")).collect();
    let is_mark = |line: &&str| {
        ["end trace", "end Kernel panic"].iter().any(|end| line.contains(end))
            || line.starts_with("====")
    };
    // A stack trace ends a report of the kind without an end mark.
    let trace = || rest.iter().take(80).position(|line| line.contains("</TASK>"));
    let last = rest.iter().position(is_mark).or_else(trace);
    at + 1 + last.map_or(0, |last| last + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WARN: &str = "\
[    3.000000] ------------[ cut here ]------------
[    3.000001] filter attached to an evicted block device
[    3.000002] WARNING: block/blk-filter.c:290 at blk_filter_evict+0x40/0x50, CPU#1: umount/99
[    3.000003] Call Trace:
[    3.000004]  <TASK>
[    3.000005]  </TASK>
[    3.000006] ---[ end trace 0000000000000000 ]---
";

    /// Reports of one line each, as the kernel words them.
    const REPORTS: &str = "\
BUG: KASAN: slab-use-after-free in submit_bio_noacct_nocheck+0x10/0x20
UBSAN: shift-out-of-bounds in block/bio.c:1:2
Oops: general protection fault, probably for non-canonical address
WARNING: possible circular locking dependency detected
INFO: task dd:300 blocked for more than 120 seconds.
rcu: INFO: rcu_preempt self-detected stall on CPU
kmemleak: 3 new suspected memory leaks (see /sys/kernel/debug/kmemleak)
refcount_t: underflow; use-after-free.
list_del corruption. prev->next should be ffff888, but was 0
ODEBUG: free active (active state 0) object: ffff888
Kernel panic - not syncing: VFS: Unable to mount root fs";

    #[test]
    fn every_sort_is_red() {
        for line in REPORTS.lines().chain(SIGNS.split('|')) {
            let log = format!("[    1.0] fine\n[    2.0] {line}\n[    3.0] fine\n");
            assert_eq!(scan(&log), [format!("[    2.0] {line}")]);
        }
        let quiet = "[    0.1] Linux version 7.3.4\n[    0.2] debug: 3\n\
            [    0.3] kasan: KernelAddressSanitizer initialized\n\
            [    1.0] blk-filter: vda: attach failed: -ENOENT\n";
        assert!(scan(quiet).is_empty());
    }

    #[test]
    fn announcement_must_come_true_once() {
        let begin = "[ 1.0] blkfilter-expect: begin filter attached to an evicted\n";
        let end = "[ 9.0] blkfilter-expect: end\n";
        for (log, wrong) in [
            (vec![WARN], 1),
            (vec![begin, WARN, end], 0),
            (vec![begin, end], 1),
            (vec![begin, WARN, WARN, end], 1),
            // Another report than the announced one: it is red, and the announced one is missing.
            (vec![begin, "[ 2.0] UBSAN: x\n", end], 2),
            (vec![begin, WARN], 1),
            (vec![begin, WARN, begin, WARN, end], 1),
            (vec![end], 1),
            (vec![begin, WARN, end, WARN], 1),
        ] {
            assert_eq!(scan(&log.concat()).len(), wrong, "{log:?}");
        }
    }
}
