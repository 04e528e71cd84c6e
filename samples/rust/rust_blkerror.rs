// SPDX-License-Identifier: GPL-2.0

//! A block device filter that makes I/O fail, or reads return what was not written.
//!
//! On a disk that is in use, and without device mapper below it:
//!
//! ```sh
//! modprobe rust_blkerror
//! # A bad spot: reads of 8 sectors of 512 bytes from sector 2048 on fail.
//! echo "blkerror op=read first=2048 last=2055" > /sys/block/vda/filter
//! # Every tenth write fails with "No space left on device".
//! echo none > /sys/block/vda/filter
//! echo "blkerror op=write percent=10 errno=28" > /sys/block/vda/filter
//! # Reads have a wrong byte every now and then.
//! echo none > /sys/block/vda/filter
//! echo "blkerror op=read percent=1 do=corrupt" > /sys/block/vda/filter
//! ```
//!
//! Which bios of those that match are hit is the same each time: percent=10 is every tenth.

use kernel::{
    block::{
        bio::{
            BlkStatus,
            Op, //
        },
        filter::{
            AttachInfo,
            BlkFilter,
            CompletedBio,
            EndIo,
            FilteredBio,
            IncomingBio,
            Verdict, //
        }, //
    },
    module_blk_filter,
    prelude::*,
    sync::atomic::{
        Atomic,
        Relaxed, //
    }, //
};

module_blk_filter! {
    type: BlkError,
    name: "rust_blkerror",
    authors: ["blkfilter developers"],
    description: "Block device filter: fail or corrupt I/O",
    license: "GPL",
    alias: ["blkfilter-blkerror"],
}

/// The filter on one device: what it was told, and how many bios matched.
struct BlkError {
    op: Option<Op>,
    first: u64,
    last: u64,
    percent: u64,
    corrupt: bool,
    status: BlkStatus,
    matched: Atomic<u64>,
}

fn number<T: core::str::FromStr>(text: &str) -> Result<T> {
    text.parse().map_err(|_| EINVAL)
}

impl BlkError {
    fn new(info: AttachInfo<'_>) -> Result<Self> {
        let mut new = Self {
            op: None,
            first: 0,
            last: u64::MAX,
            percent: 100,
            corrupt: false,
            status: BlkStatus::IOERR,
            matched: Atomic::new(0),
        };
        info.parse_options(|key, value| {
            match (key, value) {
                ("op", _) => new.op = Some(value.parse()?),
                ("do", "fail") => new.corrupt = false,
                ("do", "corrupt") => new.corrupt = true,
                ("first", _) => new.first = number(value)?,
                ("last", _) => new.last = number(value)?,
                ("percent", _) => new.percent = number(value)?,
                ("errno", _) => {
                    let errno = number::<core::num::NonZeroU8>(value)?;
                    new.status = Error::from_errno(-i32::from(errno.get())).into();
                }
                _ => return Err(EINVAL),
            }
            Ok(())
        })?;
        // There is something else to be read only if it is a read.
        let bad = new.corrupt && new.op != Some(Op::READ);
        if bad || new.percent > 100 || new.first > new.last {
            return Err(EINVAL);
        }
        Ok(new)
    }

    fn hits(&self, bio: &FilteredBio) -> bool {
        let (first, sectors) = (bio.sector(), u64::from(bio.nr_sectors()));
        let matches = self.op.is_none_or(|op| op == bio.op())
            && first <= self.last
            && first + sectors.max(1) > self.first;
        // Spread evenly: the n-th is hit if that makes the share of hits grow.
        matches && {
            let n = self.matched.fetch_add(1, Relaxed) % 100;
            (n + 1) * self.percent / 100 != n * self.percent / 100
        }
    }
}

#[vtable]
impl BlkFilter for BlkError {
    const NAME: &'static CStr = c"blkerror";
    const OPTIONS: bool = true;
    const ARMS: bool = true;
    type RegistrationData = ();

    fn attach(info: AttachInfo<'_>, (): &()) -> impl PinInit<Self, Error> {
        Self::new(info)
    }

    fn submit_bio<'cb>(this: Pin<&'cb Self>, bio: IncomingBio<'cb, Self>) -> Verdict<'cb> {
        if !this.hits(&bio) {
            return bio.pass();
        }
        if this.corrupt {
            // Without memory it is read as it is.
            return bio.pass_armed(()).unwrap_or_else(|(bio, ())| bio.pass());
        }
        bio.end(this.status)
    }
}

impl EndIo for BlkError {
    type Data = ();

    fn end_io(this: Pin<&Self>, mut bio: CompletedBio<'_>, (): ()) {
        // The middle of what it has of the sectors that are meant; it has one at least.
        let (start, sectors) = (bio.sector(), u64::from(bio.nr_sectors()));
        let from = this.first.saturating_sub(start);
        let to = (this.last - start).saturating_add(1).min(sectors);
        let middle = ((from + to) << 9 >> 1) as usize;
        if let (BlkStatus::OK, Some(mut data)) = (bio.status(), bio.data_mut()) {
            let mut byte = [0];
            let _ = data.read(middle, &mut byte);
            let _ = data.write(middle, &[!byte[0]]);
        }
    }
}
