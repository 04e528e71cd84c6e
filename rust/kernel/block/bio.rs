// SPDX-License-Identifier: GPL-2.0

//! Block I/O descriptors.
//!
//! C headers: [`include/linux/bio.h`](srctree/include/linux/bio.h),
//! [`include/linux/blk_types.h`](srctree/include/linux/blk_types.h).

use crate::{
    bindings,
    bits::bit_u32,
    error::{
        to_result,
        Error,
        Result, //
    },
    fmt,
    impl_flags,
    types::Opaque, //
};

/// The operation of a bio.
///
/// Values that this kernel's C code knows and this type does not name stay representable.
///
/// # Examples
///
/// ```
/// use kernel::block::bio::Op;
///
/// assert!(Op::WRITE.changes_data());
/// assert!(Op::DISCARD.changes_data());
/// assert!(!Op::READ.changes_data());
/// assert!(!Op::ZONE_OPEN.changes_data());
/// assert_ne!(Op::WRITE, Op::WRITE_ZEROES);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Op(u32);

impl Op {
    /// Read sectors from the device.
    pub const READ: Self = Self(bindings::req_op_REQ_OP_READ);
    /// Write sectors to the device. Without sectors and with [`ReqFlag::Preflush`]: flush it.
    pub const WRITE: Self = Self(bindings::req_op_REQ_OP_WRITE);
    /// Discard sectors: they hold nothing of value any more.
    pub const DISCARD: Self = Self(bindings::req_op_REQ_OP_DISCARD);
    /// Discard sectors so that their content cannot be got back.
    pub const SECURE_ERASE: Self = Self(bindings::req_op_REQ_OP_SECURE_ERASE);
    /// Write zeroes without transferring any.
    pub const WRITE_ZEROES: Self = Self(bindings::req_op_REQ_OP_WRITE_ZEROES);
    /// Write at the write pointer of a zone.
    pub const ZONE_APPEND: Self = Self(bindings::req_op_REQ_OP_ZONE_APPEND);
    /// Open a zone.
    pub const ZONE_OPEN: Self = Self(bindings::req_op_REQ_OP_ZONE_OPEN);
    /// Close a zone.
    pub const ZONE_CLOSE: Self = Self(bindings::req_op_REQ_OP_ZONE_CLOSE);
    /// Move the write pointer of a zone to its end.
    pub const ZONE_FINISH: Self = Self(bindings::req_op_REQ_OP_ZONE_FINISH);
    /// Move the write pointer of a zone to its start: its data is gone.
    pub const ZONE_RESET: Self = Self(bindings::req_op_REQ_OP_ZONE_RESET);
    /// [`ZONE_RESET`](Self::ZONE_RESET) of all zones of the device.
    pub const ZONE_RESET_ALL: Self = Self(bindings::req_op_REQ_OP_ZONE_RESET_ALL);

    /// Returns the number C knows the operation by, one of `enum req_op`.
    #[inline]
    pub const fn as_raw(self) -> u32 {
        self.0
    }

    /// Returns whether the operation can change what is read back from the device later.
    ///
    /// True for every operation that does not obviously leave the data alone, so for one this
    /// type does not name too.
    #[inline]
    pub const fn changes_data(self) -> bool {
        !matches!(self, Self::READ | Self::ZONE_OPEN | Self::ZONE_CLOSE)
    }
}

impl_flags!(
    /// The flags of a bio, `REQ_*` in C.
    #[derive(Debug, Clone, Default, Copy, PartialEq, Eq)]
    pub struct ReqFlags(u32);

    /// One flag of a bio.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum ReqFlag {
        /// Somebody waits for the bio.
        Sync = bit_u32(bindings::req_flag_bits___REQ_SYNC),

        /// Metadata of a file system.
        Meta = bit_u32(bindings::req_flag_bits___REQ_META),

        /// The data is on stable storage when the bio completes.
        Fua = bit_u32(bindings::req_flag_bits___REQ_FUA),

        /// The device's write cache is flushed first.
        Preflush = bit_u32(bindings::req_flag_bits___REQ_PREFLUSH),

        /// Read-ahead: may fail at any time.
        Rahead = bit_u32(bindings::req_flag_bits___REQ_RAHEAD),

        /// Background I/O.
        Background = bit_u32(bindings::req_flag_bits___REQ_BACKGROUND),

        /// The submitter would rather have [`BlkStatus::AGAIN`] than wait.
        Nowait = bit_u32(bindings::req_flag_bits___REQ_NOWAIT),

        /// The submitter polls for the completion.
        Polled = bit_u32(bindings::req_flag_bits___REQ_POLLED),

        /// Swap I/O.
        Swap = bit_u32(bindings::req_flag_bits___REQ_SWAP),

        /// The write must not be torn.
        Atomic = bit_u32(bindings::req_flag_bits___REQ_ATOMIC),
    }
);

/// How a bio ended, `blk_status_t` in C.
///
/// An [`Error`] converts to the status that the block layer has for it, [`BlkStatus::IOERR`] if it
/// has none.
///
/// # Examples
///
/// ```
/// use kernel::block::bio::BlkStatus;
///
/// assert_eq!(BlkStatus::from(ENOSPC), BlkStatus::NOSPC);
/// assert_eq!(BlkStatus::from(EIO), BlkStatus::IOERR);
/// // Something no block device fails with.
/// assert_eq!(BlkStatus::from(ENOTTY), BlkStatus::IOERR);
///
/// assert_eq!(BlkStatus::OK.to_result(), Ok(()));
/// assert_eq!(BlkStatus::NOSPC.to_result(), Err(ENOSPC));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct BlkStatus(bindings::blk_status_t);

impl BlkStatus {
    /// Success.
    pub const OK: Self = Self(0);
    /// The device cannot do this; `EOPNOTSUPP`.
    pub const NOTSUPP: Self = Self(bindings::BLK_STS_NOTSUPP);
    /// The device did not answer in time; `ETIMEDOUT`.
    pub const TIMEOUT: Self = Self(bindings::BLK_STS_TIMEOUT);
    /// No space left; `ENOSPC`.
    pub const NOSPC: Self = Self(bindings::BLK_STS_NOSPC);
    /// The sectors cannot be read; `ENODATA`.
    pub const MEDIUM: Self = Self(bindings::BLK_STS_MEDIUM);
    /// The data fails its integrity check; `EILSEQ`.
    pub const PROTECTION: Self = Self(bindings::BLK_STS_PROTECTION);
    /// Out of memory or another resource; `ENOMEM`.
    pub const RESOURCE: Self = Self(bindings::BLK_STS_RESOURCE);
    /// Any other error; `EIO`.
    pub const IOERR: Self = Self(bindings::BLK_STS_IOERR);
    /// It would have to wait. Only for a bio with [`ReqFlag::Nowait`]; `EAGAIN`.
    pub const AGAIN: Self = Self(bindings::BLK_STS_AGAIN);
    /// The device is offline; `ENODEV`.
    pub const OFFLINE: Self = Self(bindings::BLK_STS_OFFLINE);
    /// The bio makes no sense; `EINVAL`.
    pub const INVAL: Self = Self(bindings::BLK_STS_INVAL);

    /// Returns the number C knows the status by, one of `BLK_STS_*`.
    #[inline]
    pub const fn as_raw(self) -> bindings::blk_status_t {
        self.0
    }

    /// Returns the error that user space gets to see for the status.
    pub fn to_result(self) -> Result {
        // SAFETY: The function looks up a number and knows what to do with an unknown one.
        to_result(unsafe { bindings::blk_status_to_errno(self.0) })
    }
}

impl From<Error> for BlkStatus {
    fn from(error: Error) -> Self {
        match Self(error.to_blk_status()) {
            // It is for the device mapper's own use, nobody else may end a bio with it.
            Self(bindings::BLK_STS_DM_REQUEUE) => Self::IOERR,
            status => status,
        }
    }
}

impl fmt::Display for BlkStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.to_result() {
            Ok(()) => f.write_str("OK"),
            Err(error) => fmt::Debug::fmt(&error, f),
        }
    }
}

/// A block I/O descriptor, borrowed from whoever has to complete it.
///
/// There is no reference counting: the memory may be on the submitter's stack. There is no `&mut`
/// either, as swapping two bios would tear them out of the lists they are on.
///
/// # Invariants
///
/// The `struct bio` is valid, and nobody else changes, submits or completes it while it is
/// borrowed.
#[repr(transparent)]
pub struct Bio(Opaque<bindings::bio>);

impl Bio {
    /// Creates a reference from a pointer.
    ///
    /// # Safety
    ///
    /// For the duration of `'a`, `ptr` must point to a valid `struct bio` that nobody else
    /// changes, submits or completes.
    #[inline]
    pub unsafe fn from_raw<'a>(ptr: *mut bindings::bio) -> &'a Self {
        // CAST: `Self` is a transparent wrapper of `Opaque<bindings::bio>`.
        // SAFETY: By the safety requirements the pointer is valid for `'a`.
        unsafe { &*ptr.cast() }
    }

    /// Returns the `struct bio`.
    #[inline]
    pub(crate) fn as_raw(&self) -> *mut bindings::bio {
        self.0.get()
    }

    #[inline]
    fn opf(&self) -> u32 {
        // SAFETY: By the type invariants the bio is valid and nobody changes it.
        unsafe { (*self.as_raw()).bi_opf }
    }

    /// Returns the position of the bio as the block layer has it now, relative to the disk, not to
    /// a partition.
    #[inline]
    fn iter(&self) -> bindings::bvec_iter {
        // A copy: the C structure is packed, so there are no references to its fields.
        // SAFETY: By the type invariants the bio is valid and nobody changes it.
        unsafe { (*self.as_raw()).bi_iter }
    }

    /// Returns the operation.
    #[inline]
    pub fn op(&self) -> Op {
        Op(self.opf() & bindings::REQ_OP_MASK)
    }

    /// Returns the flags.
    #[inline]
    pub fn flags(&self) -> ReqFlags {
        // INVARIANT of the type made by `impl_flags!`: none, any number is a set of flags.
        ReqFlags(self.opf() & !bindings::REQ_OP_MASK)
    }

    /// Returns the length in bytes.
    ///
    /// It may be 0: a flush without data. For operations without data, such as discards, it is
    /// the length of the range they are for.
    #[inline]
    pub fn size(&self) -> u32 {
        self.iter().bi_size
    }

    /// Returns the length in sectors of 512 bytes, see [`size`](Self::size).
    #[inline]
    pub fn nr_sectors(&self) -> u32 {
        self.size() >> super::SECTOR_SHIFT
    }

    /// Returns whether the submitter would rather have [`BlkStatus::AGAIN`] than wait.
    #[inline]
    pub fn is_nowait(&self) -> bool {
        self.flags().contains(ReqFlag::Nowait)
    }

    /// Returns whether this is an empty flush: a write of nothing that flushes the device's write
    /// cache.
    #[inline]
    pub fn is_flush(&self) -> bool {
        self.size() == 0 && self.flags().contains(ReqFlag::Preflush)
    }
}
