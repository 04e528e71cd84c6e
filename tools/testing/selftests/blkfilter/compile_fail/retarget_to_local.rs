// SPDX-License-Identifier: GPL-2.0
//~ E0597: the device that a bio is sent to stays open
fn submit_bio<'cb>(this: Pin<&'cb Good>, bio: Incoming<'cb>, file: BdevFile) -> Verdict<'cb> {
    let to: &'cb BlockDevice = &file; //~ bad
    let to: &'cb BlockDevice = &this.get_ref().file; //~ good
    let Ok(verdict) = bio.retarget(to, 0) else {
        loop {}
    };
    verdict
}
