/** Runs anew for each test file, also where files share their modules. */
import { afterEach } from 'vitest';
import { deleteTemporaryFolders } from './model/weights/weightsFixture.js';

afterEach(deleteTemporaryFolders);
