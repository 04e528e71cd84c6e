// SPDX-License-Identifier: GPL-2.0

//! Sending a bio to another device, or to another place on its own.

use super::{
    AttachInfo,
    BlkFilter,
    Context,
    FilteredBio,
    IncomingBio,
    OwnedBio,
    Verdict, //
};
use crate::{
    bindings,
    block::bdev::BdevFile,
    error::from_err_ptr,
    prelude::*, //
};
use core::ptr::NonNull;

/// A device that a filter can send bios to.
///
/// It was checked to take all that whoever submits to the device of the filter may rely on. It
/// stays open until this has been dropped and no bio is on its way there, but not longer than until
/// the filter is released.
///
/// # Invariants
///
/// A reference to a target, made for one filter on one device.
pub struct Target(NonNull<bindings::bdev_filter_target>);

// SAFETY: It is reference counted, and can be used and given back by any thread.
unsafe impl Send for Target {}
// SAFETY: As above.
unsafe impl Sync for Target {}

impl Target {
    /// # Safety
    ///
    /// Until this returns `filter` must be in its `attach`, or own a bio.
    unsafe fn new(filter: *mut bindings::bdev_filter, file: BdevFile) -> Result<Self> {
        // SAFETY: By the safety requirements. The file is open.
        let target = from_err_ptr(unsafe {
            bindings::bdev_filter_make_target(filter, file.as_file_ptr(), file.holder_ptr())
        })?;
        // C closes the file from now on, and frees the holder after that.
        core::mem::forget(file);
        // INVARIANT: The reference is ours.
        // SAFETY: It is no error, and C does not return a null pointer.
        Ok(Self(unsafe { NonNull::new_unchecked(target) }))
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        // SAFETY: By the type invariants. It is not used after this.
        unsafe { bindings::bdev_filter_put_target(self.0.as_ptr()) };
    }
}

impl AttachInfo<'_> {
    /// Makes an open device one that the filter can send bios to.
    ///
    /// [`EOPNOTSUPP`] if the device wants larger blocks or memory that is better aligned than that
    /// of the filter, has a volatile cache or wants stable pages and that has not, can't be asked
    /// not to wait and that can, or if one of them has zones or other integrity metadata.
    /// [`ELOOP`] if it is the device of the filter or lies on top of it.
    ///
    /// Process context, may sleep.
    pub fn target(&self, file: BdevFile) -> Result<Target> {
        // SAFETY: This is its `attach`.
        unsafe { Target::new(self.filter.get(), file) }
    }
}

impl<T: BlkFilter> Context<'_, T> {
    /// Does what [`AttachInfo::target`] does, later.
    ///
    /// [`EINVAL`] if `owned` is of another device than `self`, [`ENODEV`] if the filter was
    /// detached, or the device is being removed.
    pub fn target(&self, owned: &OwnedBio<T>, file: BdevFile) -> Result<Target> {
        if !self.owns(owned) {
            return Err(EINVAL);
        }
        // SAFETY: It owns `owned`, which is borrowed until this returns.
        unsafe { Target::new(self.filter, file) }
    }
}

/// Makes a bio that goes on right after this go to `target`.
///
/// # Safety
///
/// Where `WAIT` this must be in `process` of the filter of the bio.
#[inline]
unsafe fn retarget<T: BlkFilter, const WAIT: bool>(
    bio: &FilteredBio,
    target: &Target,
    sector: u64,
) -> bool {
    const_assert!(T::ARMS, "a filter that retargets bios must have ARMS");
    let retarget = if WAIT {
        bindings::bdev_filter_retarget_wait
    } else {
        bindings::bdev_filter_retarget
    };
    // SAFETY: By the type invariants of `FilteredBio` both are valid, and nobody else has the bio.
    // The target is valid by its type invariants. The context is right by the safety requirements.
    unsafe { retarget(bio.filter.as_ptr(), bio.as_raw(), target.0.as_ptr(), sector) }
}

/// Moves a bio that goes on right after this to another place.
#[inline]
fn remap(bio: &FilteredBio, sector: u64) -> bool {
    // SAFETY: By the type invariants of `FilteredBio` both are valid, and nobody else has the bio.
    unsafe { bindings::bdev_filter_remap(bio.filter.as_ptr(), bio.as_raw(), sector) }
}

impl<'cb, T: BlkFilter> IncomingBio<'cb, T> {
    /// Sends the bio to `sector` of `target`, in units of 512 bytes, instead of where it was going.
    ///
    /// It goes through the checks and the filters of that device, as if it had been submitted
    /// there.
    ///
    /// Gives the bio back if there is no memory, which this does not wait for, if the bio is
    /// [protected](FilteredBio::is_protected) or has an encryption context or integrity data, if it
    /// is a write and the target was not opened for writing, if the target was made for another
    /// filter, or if one of the devices has changed and a new target would not be made.
    ///
    /// # Examples
    ///
    /// ```
    /// use kernel::block::{
    ///     bio::BlkStatus,
    ///     filter::{
    ///         BlkFilter,
    ///         IncomingBio,
    ///         Target,
    ///         Verdict, //
    ///     }, //
    /// };
    ///
    /// /// Sends what is for this disk to another one.
    /// fn divert<'cb, T: BlkFilter>(bio: IncomingBio<'cb, T>, to: &Target) -> Verdict<'cb> {
    ///     let sector = bio.sector();
    ///     bio.retarget(to, sector)
    ///         .unwrap_or_else(|bio| bio.end(BlkStatus::from(ENOMEM)))
    /// }
    /// ```
    #[inline]
    pub fn retarget(self, target: &Target, sector: u64) -> Result<Verdict<'cb>, Self> {
        // SAFETY: It does not wait.
        if !unsafe { retarget::<T, false>(&self, target, sector) } {
            return Err(self);
        }
        Ok(Verdict::new(
            bindings::bdev_filter_verdict::BDEV_FILTER_RETARGET,
        ))
    }

    /// Lets the bio go on to `sector` of its device, in units of 512 bytes, below the filter.
    ///
    /// Gives the bio back if it is [protected](FilteredBio::is_protected) or has no sectors, if the
    /// device has zones, or if the bio would be beyond the end there or not at a whole block. One
    /// that came to a disk through a partition stays within that.
    #[inline]
    pub fn remap(self, sector: u64) -> Result<Verdict<'cb>, Self> {
        if !remap(&self, sector) {
            return Err(self);
        }
        Ok(self.pass())
    }
}

impl<T: BlkFilter> OwnedBio<T> {
    /// Sends the bio to `sector` of `target`, as [`IncomingBio::retarget`] does, but waits for
    /// memory.
    ///
    /// Also gives the bio back if it is of another device than `cx`.
    #[inline]
    pub fn retarget(self, cx: &Context<'_, T>, target: &Target, sector: u64) -> Result<(), Self> {
        // SAFETY: By the type invariants of `Context` this is `process`, and of this filter.
        if !cx.owns(&self) || !unsafe { retarget::<T, true>(&self, target, sector) } {
            return Err(self);
        }
        self.resubmit();
        Ok(())
    }

    /// Lets the bio go on to `sector` of its device, as [`IncomingBio::remap`] does.
    #[inline]
    pub fn remap(self, sector: u64) -> Result<(), Self> {
        if !remap(&self, sector) {
            return Err(self);
        }
        self.resubmit();
        Ok(())
    }
}
