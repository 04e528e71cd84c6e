// SPDX-License-Identifier: GPL-2.0
//~ unused_must_use: a filter that is dropped is detached
fn attach(file: &BdevFile) -> Result {
    Attachment::<Good>::new(file, &(), None)?; //~ bad
    let attached = Attachment::<Good>::new(file, &(), None)?; //~ good
    Ok(())
}
