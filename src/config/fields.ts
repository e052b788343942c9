/** The kinds of fields that a configuration's schema is made of. */
import { Type, type TSchema } from '@sinclair/typebox';

/** A closed object: unknown keys are errors. With only optional fields below, it may itself be left out. */
export const section = <T extends Record<string, TSchema>>(
  properties: T,
  options: { description: string; default?: object },
) => Type.Object(properties, { additionalProperties: false, ...options });

/** A string out of a fixed list. One `enum` rather than an `anyOf`, so that an error names the choices once. */
export const choice = <const T extends string>(
  values: readonly T[],
  options: { description: string; default?: T; defaultText?: string },
) => Type.Unsafe<T>({ type: 'string', enum: [...values], ...options });

/** A whole number, from 1 unless said otherwise. */
export const count = (options: { description: string; default?: number; minimum?: number }) =>
  Type.Integer({ minimum: 1, ...options });

/** A number from 0, below 1. */
export const ratio = (options: { description: string; default?: number }) =>
  Type.Number({ minimum: 0, exclusiveMaximum: 1, ...options });
