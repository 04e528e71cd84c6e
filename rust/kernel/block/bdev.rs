// SPDX-License-Identifier: GPL-2.0

//! Block devices, as their users see them.
//!
//! C header: [`include/linux/blkdev.h`](srctree/include/linux/blkdev.h).

use crate::{
    bindings,
    error::{
        from_err_ptr,
        to_result, //
    },
    prelude::*,
    types::Opaque, //
};
use core::{
    ops::Deref,
    ptr::NonNull, //
};

/// A block device, a disk or a partition, borrowed.
///
/// What it tells can change at any time: a device may be resized, or removed.
///
/// # Examples
///
/// ```
/// use kernel::block::bdev::BlockDevice;
///
/// fn describe(device: &BlockDevice) {
///     let kind = if device.is_partition() { "partition" } else { "disk" };
///     let access = if device.is_read_only() { "only read" } else { "written to" };
///     let (sectors, unit) = (device.nr_sectors(), device.logical_block_size());
///     pr_info!("a {kind} of {sectors} sectors of 512 bytes\n");
///     pr_info!("that can be {access} in units of {unit} bytes\n");
/// }
///
/// /// Whether a write that has completed may still be lost with the power.
/// fn needs_flush(device: &BlockDevice) -> bool {
///     device.has_write_cache()
/// }
///
/// /// Whether any sectors can be given back to the device.
/// fn can_discard(device: &BlockDevice) -> bool {
///     device.max_discard_sectors() > 0 && !device.is_zoned()
/// }
/// ```
///
/// # Invariants
///
/// The `struct block_device`, its disk and its queue are valid while it is borrowed.
#[repr(transparent)]
pub struct BlockDevice(Opaque<bindings::block_device>);

// SAFETY: There is no ownership that could be sent.
unsafe impl Send for BlockDevice {}
// SAFETY: The methods only read, and C does so from any thread too.
unsafe impl Sync for BlockDevice {}

impl BlockDevice {
    /// Creates a reference from a pointer.
    ///
    /// # Safety
    ///
    /// For the duration of `'a`, `ptr` must point to a valid `struct block_device` with its disk
    /// and queue.
    #[inline]
    pub unsafe fn from_raw<'a>(ptr: *mut bindings::block_device) -> &'a Self {
        // CAST: `Self` is a transparent wrapper of `Opaque<bindings::block_device>`.
        // SAFETY: By the safety requirements the pointer is valid for `'a`.
        unsafe { &*ptr.cast() }
    }

    /// Returns the `struct block_device`.
    #[inline]
    pub(crate) fn as_raw(&self) -> *mut bindings::block_device {
        self.0.get()
    }

    /// Returns the size in sectors of 512 bytes.
    #[inline]
    pub fn nr_sectors(&self) -> u64 {
        // SAFETY: By the type invariants.
        unsafe { bindings::bdev_nr_sectors(self.as_raw()) }
    }

    /// Returns the device number.
    #[inline]
    pub fn dev(&self) -> bindings::dev_t {
        // SAFETY: By the type invariants. It does not change.
        unsafe { (*self.as_raw()).bd_dev }
    }

    /// Returns whether this is a partition, not a whole disk.
    #[inline]
    pub fn is_partition(&self) -> bool {
        // SAFETY: By the type invariants.
        unsafe { bindings::bdev_is_partition(self.as_raw()) }
    }

    /// Returns whether writing is refused.
    #[inline]
    pub fn is_read_only(&self) -> bool {
        // SAFETY: By the type invariants.
        unsafe { bindings::bdev_read_only(self.as_raw()) }
    }

    /// Returns the size of a logical block in bytes: what I/O is a multiple of.
    #[inline]
    pub fn logical_block_size(&self) -> u32 {
        // SAFETY: By the type invariants.
        unsafe { bindings::bdev_logical_block_size(self.as_raw()) }
    }

    /// Returns whether the device has a volatile write cache, so that it gets flushes.
    #[inline]
    pub fn has_write_cache(&self) -> bool {
        // SAFETY: By the type invariants.
        unsafe { bindings::bdev_write_cache(self.as_raw()) }
    }

    /// Returns whether the device is divided into zones.
    #[inline]
    pub fn is_zoned(&self) -> bool {
        // SAFETY: By the type invariants.
        unsafe { bindings::bdev_is_zoned(self.as_raw()) }
    }

    /// Returns the largest discard in sectors of 512 bytes, 0 if the device has none.
    #[inline]
    pub fn max_discard_sectors(&self) -> u32 {
        // SAFETY: By the type invariants.
        unsafe { bindings::bdev_max_discard_sectors(self.as_raw()) }
    }
}

/// What a device is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// Reading.
    Read,
    /// Reading and writing.
    ReadWrite,
}

impl OpenMode {
    fn as_raw(self) -> bindings::blk_mode_t {
        match self {
            Self::Read => bindings::BLK_OPEN_READ,
            Self::ReadWrite => bindings::BLK_OPEN_READ | bindings::BLK_OPEN_WRITE,
        }
    }
}

/// A block device that we have open.
///
/// It is closed when it is dropped. That may sleep.
///
/// # Examples
///
/// ```
/// use kernel::block::bdev::{
///     BdevFile,
///     BlockDevice,
///     OpenMode, //
/// };
///
/// // No block device has the number 0.
/// assert_eq!(BdevFile::open_dev(0, OpenMode::Read).err(), Some(ENXIO));
///
/// // Nor is there one without a path.
/// let disk = BdevFile::open_exclusive(c"/none", OpenMode::ReadWrite);
/// assert_eq!(disk.err(), Some(ENOENT));
///
/// /// Opens a device that somebody else has open as well.
/// fn open_again(device: &BlockDevice) -> Result<BdevFile> {
///     BdevFile::open_dev(device.dev(), OpenMode::Read)
/// }
/// ```
///
/// # Invariants
///
/// `file` is an open block device, and the reference to it is ours.
pub struct BdevFile {
    file: NonNull<bindings::file>,
    /// Its address says who has the device for itself. After `drop()`, which closes.
    _holder: Option<KBox<u8>>,
}

// SAFETY: A file can be used and closed by any thread.
unsafe impl Send for BdevFile {}
// SAFETY: As `BlockDevice`; there is nothing else to be done with a shared reference but freezing,
// which has its own lock.
unsafe impl Sync for BdevFile {}

impl BdevFile {
    /// Opens the device with the number `dev`, besides whoever else has it open.
    ///
    /// [`ENXIO`] if there is no such device, [`EACCES`] if it is to be written to and is
    /// read-only, [`EBUSY`] if it is mounted and may not be written to then.
    ///
    /// Process context, may sleep.
    pub fn open_dev(dev: bindings::dev_t, mode: OpenMode) -> Result<Self> {
        // SAFETY: Without a holder there are no requirements.
        let file = unsafe {
            bindings::bdev_file_open_by_dev(
                dev,
                mode.as_raw(),
                core::ptr::null_mut(),
                core::ptr::null(),
            )
        };
        Self::opened(file, None)
    }

    /// Opens the device with the given path, besides whoever else has it open.
    ///
    /// The path is looked up as the current task sees it, and the current task must be allowed to
    /// search it and to use the device by its control group.
    /// [`ENOTBLK`] if it is not a block device; else as [`open_dev`](Self::open_dev).
    ///
    /// Process context, may sleep.
    pub fn open(path: &CStr, mode: OpenMode) -> Result<Self> {
        // SAFETY: Without a holder there are no requirements but a valid path.
        let file = unsafe {
            bindings::bdev_file_open_by_path(
                path.as_char_ptr(),
                mode.as_raw(),
                core::ptr::null_mut(),
                core::ptr::null(),
            )
        };
        Self::opened(file, None)
    }

    /// Opens the device for nobody but us: [`EBUSY`] if it is mounted, part of another device or
    /// held otherwise, and neither can be done while it is open.
    ///
    /// Else as [`open`](Self::open).
    pub fn open_exclusive(path: &CStr, mode: OpenMode) -> Result<Self> {
        let mut holder = KBox::new(0, GFP_KERNEL)?;
        // SAFETY: The path is valid. The holder lives until the file was closed, and its address
        // is nobody else's.
        let file = unsafe {
            bindings::bdev_file_open_by_path(
                path.as_char_ptr(),
                mode.as_raw(),
                (&raw mut *holder).cast(),
                core::ptr::null(),
            )
        };
        Self::opened(file, Some(holder))
    }

    fn opened(file: *mut bindings::file, holder: Option<KBox<u8>>) -> Result<Self> {
        let file = NonNull::new(from_err_ptr(file)?).ok_or(ENXIO)?;
        // INVARIANT: It has just been opened, for the caller.
        Ok(Self {
            file,
            _holder: holder,
        })
    }

    /// Returns the open file.
    #[cfg(CONFIG_BLK_FILTER)]
    pub(super) fn as_file_ptr(&self) -> *mut bindings::file {
        self.file.as_ptr()
    }

    /// Returns what has to live until the file is closed, from `kmalloc()`, or null.
    #[cfg(CONFIG_BLK_FILTER)]
    pub(super) fn holder_ptr(&self) -> *mut c_void {
        let holder = self._holder.as_deref();
        holder.map_or(core::ptr::null_mut(), |holder| {
            core::ptr::from_ref(holder).cast_mut().cast()
        })
    }

    /// Freezes the file system on the device, if there is one: what it has written is on the
    /// device, and it writes no more until the guard is dropped.
    ///
    /// This is the only way to a consistent point: nothing that a filter does stops writers. It
    /// can be nested. [`EBUSY`] if the file system is being frozen or thawed by somebody else, or
    /// an error of the file system.
    ///
    /// Process context, may sleep, and does I/O to the device: neither from a filter of it, nor
    /// holding a lock that one takes.
    pub fn freeze(&self) -> Result<FreezeGuard<'_>> {
        // SAFETY: By the type invariants of `BlockDevice`, and it is open.
        to_result(unsafe { bindings::bdev_freeze(self.as_raw()) })?;
        // INVARIANT: Done above.
        Ok(FreezeGuard(self))
    }
}

impl Deref for BdevFile {
    type Target = BlockDevice;

    #[inline]
    fn deref(&self) -> &BlockDevice {
        // SAFETY: By the type invariants it is a block device, which stays while it is open.
        unsafe { BlockDevice::from_raw(bindings::file_bdev(self.file.as_ptr())) }
    }
}

impl Drop for BdevFile {
    fn drop(&mut self) {
        // SAFETY: By the type invariants. Not `fput()`: that would leave the claim of a holder,
        // which is gone after this, to a time when nobody knows.
        unsafe { bindings::bdev_fput(self.file.as_ptr()) };
    }
}

/// Keeps the file system of a block device frozen until it is dropped.
///
/// Dropping it may sleep. If it is leaked the file system stays frozen.
///
/// # Examples
///
/// ```
/// use kernel::block::bdev::{
///     BdevFile,
///     FreezeGuard,
///     OpenMode, //
/// };
///
/// /// Does something while the file system on the disk does not write.
/// fn at_a_consistent_point(path: &CStr, job: impl FnOnce(&BdevFile) -> Result) -> Result {
///     let disk = BdevFile::open(path, OpenMode::Read)?;
///     let _frozen: FreezeGuard<'_> = disk.freeze()?;
///     job(&disk)
///     // It is thawed, and then closed.
/// }
/// # let _ = at_a_consistent_point(c"/none", |_| Ok(()));
/// ```
///
/// # Invariants
///
/// The device was frozen, and not thawed since on behalf of this guard.
#[must_use = "the file system is thawed when the guard is dropped"]
pub struct FreezeGuard<'a>(&'a BdevFile);

impl Drop for FreezeGuard<'_> {
    fn drop(&mut self) {
        // SAFETY: By the type invariants. It fails only if the file system could not be thawed,
        // and then there is nothing to be done about it.
        unsafe { bindings::bdev_thaw(self.0.as_raw()) };
    }
}
