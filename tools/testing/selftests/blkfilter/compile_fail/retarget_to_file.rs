// SPDX-License-Identifier: GPL-2.0
//~ E0308: where a bio is sent has been checked
fn submit_bio<'cb>(this: Pin<&'cb Good>, bio: Incoming<'cb>) -> Verdict<'cb> {
    let to = &this.get_ref().file; //~ bad
    let to = &this.get_ref().target; //~ good
    bio.retarget(to, 0).unwrap_or_else(Incoming::pass) //~ bad
    bio.retarget(to, 0).unwrap_or_else(Incoming::pass) //~ good
}
