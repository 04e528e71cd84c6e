// SPDX-License-Identifier: GPL-2.0

//! Changed-block tracking: which blocks of a disk in use have been written to since the last
//! backup.
//!
//! ```sh
//! modprobe rust_blk_changetrack
//! echo "changetrack granularity=64K" > /sys/block/vda/filter
//! cd /sys/kernel/debug/changetrack/vda
//! # At each backup, with the file system frozen:
//! echo switch > generation
//! cat bitmap
//! ```
//!
//! The layout of `bitmap` is in `Documentation/ABI/testing/debugfs-blk-changetrack`, how to use it
//! in `Documentation/block/blkfilter.rst`.
//!
//! There are two bitmaps of one bit a block, allocated at attach. One is being set, the other is
//! for reading. Switching clears the latter, makes writers use it, and waits until no writer can be
//! setting a bit in the other any more: all of them are in an RCU read section.

use kernel::{
    block::filter::{
        AttachInfo,
        BlkFilter,
        FilteredBio,
        IncomingBio,
        Verdict, //
    },
    debugfs::{
        BinaryWriter,
        Dir,
        Scope, //
    },
    fmt,
    fs::file,
    module_blk_filter,
    new_mutex,
    prelude::*,
    sync::{
        atomic::{
            Acquire,
            Atomic,
            Relaxed,
            Release, //
        },
        rcu::synchronize_rcu,
        Mutex, //
    },
    uaccess::{
        UserSliceReader,
        UserSliceWriter, //
    }, //
};

module_blk_filter! {
    type: ChangeTrack,
    data: Dir::new(c"changetrack"),
    name: "rust_blk_changetrack",
    authors: ["blkfilter developers"],
    description: "Block device filter: changed-block tracking",
    license: "GPL",
    alias: ["blkfilter-changetrack"],
}

/// One bit a block.
type Bitmap = KVVec<Atomic<u64>>;

fn new_bitmap(words: usize) -> Result<Bitmap> {
    let mut bitmap = KVVec::with_capacity(words, GFP_KERNEL)?;
    for _ in 0..words {
        bitmap.push(Atomic::new(0), GFP_KERNEL)?;
    }
    Ok(bitmap)
}

/// A number of bytes, as in "65536", "64K" or "1M".
fn bytes(text: &str) -> Result<u32> {
    let (digits, unit) = if let Some(digits) = text.strip_suffix(['K', 'k']) {
        (digits, 1 << 10)
    } else if let Some(digits) = text.strip_suffix(['M', 'm']) {
        (digits, 1 << 20)
    } else {
        (text, 1)
    };
    let number: u32 = digits.parse().map_err(|_| EINVAL)?;
    number.checked_mul(unit).ok_or(EINVAL)
}

/// What can be read now.
struct Frozen {
    /// Counts the switches since attach: the number of the generation that can be read.
    generation: u64,
    /// Writes since before the last switch are not in it, so nothing can be told about them.
    everything: bool,
}

/// The state of one device.
#[pin_data]
struct Tracker {
    bitmaps: [Bitmap; 2],
    /// Which of them is being set.
    active: Atomic<u32>,
    /// Size of a block, as a power of two, in bytes.
    shift: u32,
    nr_blocks: u64,
    /// No other attachment has this.
    id: u64,
    /// The device was resized, or all of it changed in a way that has no sectors.
    void: Atomic<u32>,
    #[pin]
    frozen: Mutex<Frozen>,
}

impl Tracker {
    fn new(info: AttachInfo<'_>) -> impl PinInit<Self, Error> {
        let id = info.unique_id();
        let (nr_sectors, mut granularity) = (info.device().nr_sectors(), 65536_u32);
        let parsed = info.parse_options(|key, value| {
            granularity = match key {
                "granularity" => bytes(value)?,
                _ => return Err(EINVAL),
            };
            Ok(())
        });
        let shift = granularity.trailing_zeros();
        let valid = granularity.is_power_of_two() && (12..=20).contains(&shift);
        let checked = parsed.and(if valid { Ok(()) } else { Err(EINVAL) });

        // Not a division: it may be one by 0, and is refused only when this is initialized.
        let nr_blocks = ((nr_sectors << 9) + (1_u64 << shift) - 1) >> shift;
        let words = nr_blocks.div_ceil(64) as usize;
        try_pin_init!(Self {
            _: { checked?; },
            bitmaps: [new_bitmap(words)?, new_bitmap(words)?],
            active: Atomic::new(0),
            shift,
            nr_blocks,
            id,
            void: Atomic::new(0),
            frozen <- new_mutex!(Frozen { generation: 0, everything: true }),
        })
    }

    /// Marks what a bio is going to change. Any context, no lock, no allocation.
    #[inline]
    fn mark(&self, bio: &FilteredBio) {
        let size = u64::from(bio.size());
        if size == 0 {
            // What changes data and has no sectors is for the whole device.
            if !bio.is_flush() {
                self.void.store(1, Relaxed);
            }
            return;
        }
        let start = bio.sector() << 9;
        let (first, last) = (start >> self.shift, (start + size - 1) >> self.shift);
        let bitmap = &self.bitmaps[(self.active.load(Relaxed) & 1) as usize];
        if first == last {
            self.set(bitmap, first / 64, 1 << (first % 64));
        } else {
            self.set_all(bitmap, first, last);
        }
    }

    /// Sets the bits from `first` to `last`. Not inlined, as mostly there is but one, and that then
    /// needs no registers saved.
    #[inline(never)]
    fn set_all(&self, bitmap: &Bitmap, first: u64, last: u64) {
        for word in first / 64..=last / 64 {
            let from = first.max(word * 64) % 64;
            let to = last.min(word * 64 + 63) % 64;
            self.set(bitmap, word, (u64::MAX << from) & (u64::MAX >> (63 - to)));
        }
    }

    #[inline]
    fn set(&self, bitmap: &Bitmap, word: u64, mask: u64) {
        let Some(bits) = bitmap.get(word as usize) else {
            return self.void.store(1, Relaxed);
        };
        // Most are marked already: do not write to what other CPUs read.
        let mut old = bits.load(Relaxed);
        while old & mask != mask {
            match bits.cmpxchg(old, old | mask, Relaxed) {
                Ok(_) => break,
                Err(now) => old = now,
            }
        }
    }

    /// Starts a new generation: what was marked until now can be read from now on.
    fn switch(&self) {
        let mut frozen = self.frozen.lock();
        let old = self.active.load(Relaxed) & 1;
        for bits in &self.bitmaps[(old ^ 1) as usize] {
            bits.store(0, Relaxed);
        }
        // Whoever uses the other one sees it cleared.
        self.active.store(old ^ 1, Release);
        // Bios that are being marked with the old one.
        synchronize_rcu();
        frozen.everything = self.void.load(Relaxed) != 0;
        frozen.generation += 1;
    }

    /// The first 64 bytes of `bitmap`.
    fn header(&self, frozen: &Frozen) -> [u8; 64] {
        let mut header = [0; 64];
        let everything = frozen.everything || self.void.load(Relaxed) != 0;
        let fields: [&[u8]; 7] = [
            b"BLKTRACK",
            &1_u32.to_le_bytes(),
            &self.shift.to_le_bytes(),
            &self.nr_blocks.to_le_bytes(),
            &self.id.to_le_bytes(),
            &frozen.generation.to_le_bytes(),
            &u64::from(everything).to_le_bytes(),
        ];
        let bytes = fields.iter().flat_map(|field| field.iter());
        for (to, from) in header.iter_mut().zip(bytes) {
            *to = *from;
        }
        header
    }
}

/// The header and the bits of the generation that can be read.
impl BinaryWriter for Tracker {
    fn write_to_slice(
        &self,
        writer: &mut UserSliceWriter,
        offset: &mut file::Offset,
    ) -> Result<usize> {
        let frozen = self.frozen.lock();
        let header = self.header(&frozen);
        let everything = header[40] != 0;
        let bitmap = &self.bitmaps[(self.active.load(Acquire) & 1 ^ 1) as usize];
        let mut done = 0;
        while !writer.is_empty() {
            let mut at = usize::try_from(*offset).map_err(|_| EINVAL)?;
            let copied = if at < header.len() {
                let copied = writer.write_slice_partial(&header, at)?;
                at += copied;
                copied
            } else {
                let Some(bits) = bitmap.get((at - header.len()) / 8) else {
                    break;
                };
                let bits = if everything {
                    u64::MAX
                } else {
                    bits.load(Relaxed)
                };
                let copied = writer.write_slice_partial(&bits.to_le_bytes(), at % 8)?;
                at += copied;
                copied
            };
            if copied == 0 {
                break;
            }
            done += copied;
            *offset = at as file::Offset;
        }
        Ok(done)
    }
}

fn show(tracker: &Tracker, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let frozen = tracker.frozen.lock();
    let everything = frozen.everything || tracker.void.load(Relaxed) != 0;
    let marked = |bitmap: &Bitmap| -> u64 {
        bitmap
            .iter()
            .map(|bits| u64::from(bits.load(Relaxed).count_ones()))
            .sum()
    };
    let active = tracker.active.load(Relaxed) & 1;
    writeln!(f, "id {}", tracker.id)?;
    writeln!(f, "generation {}", frozen.generation)?;
    writeln!(f, "everything {}", u8::from(everything))?;
    writeln!(f, "granularity {}", 1_u32 << tracker.shift)?;
    writeln!(f, "blocks {}", tracker.nr_blocks)?;
    writeln!(
        f,
        "changed {}",
        marked(&tracker.bitmaps[(active ^ 1) as usize])
    )?;
    writeln!(f, "changing {}", marked(&tracker.bitmaps[active as usize]))
}

fn store(tracker: &Tracker, from: &mut UserSliceReader) -> Result {
    let mut text = [0; 16];
    let text = text.get_mut(..from.len()).ok_or(EINVAL)?;
    from.read_slice(text)?;
    if text.trim_ascii() != b"switch" {
        return Err(EINVAL);
    }
    tracker.switch();
    Ok(())
}

/// The filter on one device.
#[pin_data]
struct ChangeTrack {
    #[pin]
    tracker: Scope<Tracker>,
}

#[vtable]
impl BlkFilter for ChangeTrack {
    const NAME: &'static CStr = c"changetrack";
    const OPTIONS: bool = true;
    type RegistrationData = Dir;

    fn attach(info: AttachInfo<'_>, debugfs: &Dir) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            tracker <- debugfs.scope(Tracker::new(info), info.device_name(), |tracker, dir| {
                dir.read_binary_file(c"bitmap", tracker);
                dir.read_write_callback_file(c"generation", tracker, &show, &store);
            }),
        })
    }

    #[inline]
    fn submit_bio<'cb>(this: Pin<&'cb Self>, bio: IncomingBio<'cb, Self>) -> Verdict<'cb> {
        if bio.op().changes_data() {
            this.get_ref().tracker.mark(&bio);
        }
        bio.pass()
    }

    fn resized(this: Pin<&Self>, _nr_sectors: u64) {
        this.get_ref().tracker.void.store(1, Relaxed);
    }
}
