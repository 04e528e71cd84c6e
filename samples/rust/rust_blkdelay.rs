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

/// How many bios have their own time; those beyond share that of the last one.
const TIMES: usize = 1024;

/// When the bios that are held came, in the order in which they did: a ring.
struct Times {
    times: KVec<Instant<Monotonic>>,
    /// Bios that came, and bios that went.
    came: usize,
    went: usize,
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
            let times = Times {
                times: KVec::from_elem(Instant::now(), TIMES, GFP_KERNEL)?,
                came: 0,
                went: 0,
            };
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
        let came = times.came;
        if came - times.went < TIMES {
            times.times[came % TIMES] = Instant::now();
        }
        let verdict = bio.defer();
        times.came += usize::from(verdict.is_ok());
        verdict.unwrap_or_else(IncomingBio::pass)
    }

    fn process<'a>(this: Pin<&'a Self>, cx: &Context<'a, Self>, bio: OwnedBio<Self>) {
        let this = this.get_ref();
        let came = {
            let mut times = this.times.lock();
            times.went += 1;
            times.times[(times.went - 1) % TIMES]
        };
        let left = this.delay - came.elapsed();
        if !left.is_negative() {
            cx.sleep(left);
        }
        bio.resubmit();
    }
}
