import { describe, expect, it } from 'vitest';
import { partOfRow } from '../../src/data/partOfRow.js';
import { range } from '../helpers/statistics.js';

describe('partOfRow', () => {
  it.each([[[5]], [[1, 1, 1]], [[3, 0, 4, 0, 0, 2]], [[2, 7, 1, 9, 4, 4, 1]]])(
    'of parts with %j rows finds the one with each row',
    (rows) => {
      const owners = rows.flatMap((count, part) => range(count).map(() => part));
      const firstRows = rows.map((_, part) => rows.slice(0, part).reduce((sum, count) => sum + count, 0));
      const found = owners.map((_, row) => partOfRow((part) => firstRows[part] ?? 0, rows.length, row));
      expect(found).toEqual(owners);
    },
  );
});
