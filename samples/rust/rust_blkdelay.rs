// SPDX-License-Identifier: GPL-2.0

//! A block device filter that makes I/O slow: each bio is held for a time, in order.
//!
//! ```sh
//! modprobe rust_blkdelay
//! # Reads take 20 ms longer.
//! echo "blkdelay op=read ms=20" > /sys/block/vda/filter
//! # Everything takes 100 ms longer.
//! echo none > /sys/block/vda/filter
//! echo "blkdelay ms=100" > /sys/block/vda/filter
//! ```
//!
//! Detaching lets go what is held.

use kernel::{
    block::{
        bio::{
            BlkStatus,
            Op, //
        },
        filter::{
            AttachInfo,
            BlkFilter,
            Context,
            IncomingBio,
            OwnedBio,
            Verdict, //
        }, //
    },
    module_blk_filter,
    new_spinlock,
    prelude::*,
    sync::SpinLock,
    time::{
        Delta,
        Instant,
        Monotonic, //
    }, //
};

module_blk_filter! {
    type: BlkDelay,
    name: "rust_blkdelay",
    authors: ["blkfilter developers"],
    description: "Block device filter: delay I/O",
    license: "GPL",
    alias: ["blkfilter-blkdelay"],
}

/// Bios that came within this part of the delay of each other share a time, that of the last of
/// them. So there are no more times than this, but if a bio is held for longer than the delay, as
/// the disk is slow: then the last ones share theirs, and none is let go too early.
const TIMES: usize = 1024;

/// Bios that came together.
#[derive(Clone, Copy)]
struct Group {
    first: Instant<Monotonic>,
    last: Instant<Monotonic>,
    bios: usize,
}

/// When the bios that are held came, in the order in which they did: a ring.
struct Times {
    groups: KVec<Group>,
    /// The first group, and the number of them.
    start: usize,
    nr: usize,
}

impl Times {
    fn new() -> Result<Self> {
        let none = Group {
            first: Instant::now(),
            last: Instant::now(),
            bios: 0,
        };
        Ok(Self {
            groups: KVec::from_elem(none, TIMES, GFP_KERNEL)?,
            start: 0,
            nr: 0,
        })
    }

    /// A bio came now. Those of the same group are held for a little longer.
    fn push(&mut self, delay: Delta) {
        let now = Instant::now();
        let width = delay.as_nanos() / TIMES as i64;
        if self.nr != 0 {
            let group = &mut self.groups[(self.start + self.nr - 1) % TIMES];
            if self.nr == TIMES || (now - group.first).as_nanos() < width {
                group.last = now;
                group.bios += 1;
                return;
            }
        }
        self.groups[(self.start + self.nr) % TIMES] = Group {
            first: now,
            last: now,
            bios: 1,
        };
        self.nr += 1;
    }

    /// The first bio goes: the time when it came.
    fn pop(&mut self) -> Instant<Monotonic> {
        let group = &mut self.groups[self.start];
        let came = group.last;
        group.bios -= 1;
        if group.bios == 0 {
            self.start = (self.start + 1) % TIMES;
            self.nr -= 1;
        }
        came
    }
}

/// The filter on one device.
#[pin_data]
struct BlkDelay {
    op: Option<Op>,
    delay: Delta,
    #[pin]
    times: SpinLock<Times>,
}

fn parse(info: AttachInfo<'_>) -> Result<(Option<Op>, Delta)> {
    let (mut op, mut delay) = (None, None);
    info.parse_options(|key, value| {
        match (key, value) {
            ("op", _) => op = Some(value.parse()?),
            ("ms", _) => {
                let ms: u16 = value.parse().map_err(|_| EINVAL)?;
                delay = Some(Delta::from_millis(ms.into()));
            }
            _ => return Err(EINVAL),
        }
        Ok(())
    })?;
    Ok((op, delay.ok_or(EINVAL)?))
}

#[vtable]
impl BlkFilter for BlkDelay {
    const NAME: &'static CStr = c"blkdelay";
    const OPTIONS: bool = true;
    const TAKES: bool = true;
    type RegistrationData = ();

    fn attach(info: AttachInfo<'_>, (): &()) -> impl PinInit<Self, Error> {
        let parsed = parse(info);
        pin_init::pin_init_scope(move || {
            let (op, delay) = parsed?;
            let times = Times::new()?;
            Ok(try_pin_init!(Self {
                op,
                delay,
                times <- new_spinlock!(times),
            }))
        })
    }

    fn submit_bio<'cb>(this: Pin<&'cb Self>, bio: IncomingBio<'cb, Self>) -> Verdict<'cb> {
        if this.op.is_some_and(|op| op != bio.op()) {
            return bio.pass();
        }
        if bio.is_nowait() {
            return bio.end(BlkStatus::AGAIN);
        }
        let this = this.get_ref();
        // Both under the lock: the bios are processed in the order of their times.
        let mut times = this.times.lock();
        let verdict = bio.defer();
        if verdict.is_ok() {
            times.push(this.delay);
        }
        verdict.unwrap_or_else(IncomingBio::pass)
    }

    fn process<'a>(this: Pin<&'a Self>, cx: &Context<'a, Self>, bio: OwnedBio<Self>) {
        let this = this.get_ref();
        let came = this.times.lock().pop();
        let left = this.delay - came.elapsed();
        if !left.is_negative() {
            cx.sleep(left);
        }
        bio.resubmit();
    }
}
